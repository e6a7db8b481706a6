//! Spoiled files of every format: an importer never panics, and what it makes is a sound policy in
//! its canonical layout. `cargo xtask fuzz import` goes on for as long as is wanted.

mod support;

#[path = "../../policy/tests/common/mod.rs"]
mod common;
#[path = "../../policy/tests/common/mutate.rs"]
mod mutate;

use common::Random;
use lictor_import::{Format, NOTES_MAX, import};
use lictor_policy::syntax::format;
use support::{archive, gunzip, policy, shared, source};

const TEXTS: u64 = 1_500;
/// Bytes of a file that is taken as a seed.
const SEED_BYTES_MAX: usize = 16_384;

const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\n",
    "\n---\n",
    "- ",
    "  ",
    "\t",
    "null",
    "&a ",
    "*a",
    "! ",
    "-j ",
    "ACCEPT",
    "[OPTIONS]\n",
    "[RULES]\n",
    "term x {\n",
    "10.0.0.1/8",
    "\u{0}",
    "é",
];

const GROUPS: &str = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web",
 "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 445, "IpRanges": [
 {"CidrIp": "0.0.0.0/0", "Description": "all"}], "UserIdGroupPairs": [{"GroupId": "sg-1"}]}],
 "IpPermissionsEgress": [{"IpProtocol": "-1", "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]}],
 "Reservations": [{"Instances": [{"InstanceId": "i-1", "PrivateIpAddress": "10.0.0.1",
 "SecurityGroups": [{"GroupId": "sg-1"}]}]}]}"#;
const AZURE: &str = r#"[{"name": "n", "securityRules": [{"name": "r", "priority": 100,
 "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourceAddressPrefix": "Internet",
 "destinationAddressPrefixes": ["10.0.0.0/8"], "sourcePortRange": "*",
 "destinationPortRanges": ["80", "443-445"]}]}, {"name": "nic", "ipConfigurations": [
 {"privateIPAddress": "10.0.0.1"}], "networkSecurityGroup": {"id": "/x/n"}}]"#;
const STACK: &str = include_str!("data/stack.yaml");
const ARM: &str = include_str!("data/azuredeploy.json");
const TABLES: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
 :web - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
 -A INPUT ! -s 10.0.0.0/8 -p tcp -m multiport --dports 22,80:90 -j web\n-A web -j REJECT\n\
 [1:2] -A INPUT -p icmp -m icmp --icmp-type 8/0 -j ACCEPT\nCOMMIT\n";
const PROXMOX: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[ALIASES]\na 10.0.0.1\n\
 [IPSET s]\n10.0.0.0/8\n!10.1.0.0/16\n[group g]\nIN ACCEPT -p tcp -dport 22\n[RULES]\n\
 GROUP g\nIN SSH(ACCEPT) -source +s -log nolog\n|OUT DROP -dest a -proto udp -dport 1:9\n";

/// A few files of each format.
fn seeds() -> Vec<(Format, Vec<Vec<u8>>)> {
    let files = |path: &str, ends: &[&str]| -> Vec<Vec<u8>> {
        let files = shared(path)
            .map(|bytes| archive(&bytes))
            .unwrap_or_default();
        let fits = files.into_iter().filter(|(path, bytes)| {
            ends.iter().any(|end| path.ends_with(end)) && bytes.len() <= SEED_BYTES_MAX
        });
        fits.map(|(_, bytes)| bytes).take(80).collect()
    };
    let mut k8s = files("netpol/netpol-analyzer-cases.tar.gz", &[".yaml", ".json"]);
    k8s.extend(files(
        "network-policy-api/conformance-manifests.tar.gz",
        &[".yaml"],
    ));
    let nsx = [
        "Example1.json.gz",
        "ExampleGroup1.json.gz",
        "ExampleExclude.json.gz",
    ];
    let nsx = nsx.iter().filter_map(|name| shared(&format!("nsx/{name}")));
    let own = |text: &str| vec![text.as_bytes().to_vec()];
    let mut all = vec![
        (Format::K8s, k8s),
        (Format::Nsx, nsx.map(|bytes| gunzip(&bytes)).collect()),
        (
            Format::Aerleon,
            files("aerleon/samples.tar.gz", &[".pol", ".yaml"]),
        ),
        (Format::Sg, [GROUPS, STACK].map(Vec::from).to_vec()),
        (Format::Nsg, [AZURE, ARM].map(Vec::from).to_vec()),
        (Format::Iptables, own(TABLES)),
        (Format::Proxmox, own(PROXMOX)),
    ];
    all.retain(|(_, seeds)| !seeds.is_empty());
    all
}

/// The first byte says which format, by its place in the list.
fn check(text: &[u8]) {
    let (kind, text) = text.split_first().expect("a format");
    let (name, kind) = Format::ALL[usize::from(*kind) % Format::ALL.len()];
    let ends = [("k8s", "yaml"), ("aerleon", "pol"), ("proxmox", "100.fw")];
    let end = ends.iter().find(|(format, _)| *format == name);
    let path = end.map_or("x.json".to_owned(), |(_, end)| format!("x.{end}"));
    let Ok(found) = import(kind, "fuzz", &[source(&path, text)]) else {
        return;
    };
    assert_eq!(policy(&found).rules().count(), found.rules);
    assert!(found.notes.len() <= NOTES_MAX);
    assert_eq!(
        format(&found.policy).expect("sound"),
        found.policy,
        "canonical"
    );
    let faults = found
        .estate
        .map(|estate| estate.faults())
        .unwrap_or_default();
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn spoiled_files_are_refused_or_make_a_sound_policy() {
    let seeds = seeds();
    let tried = |random: &mut Random| {
        let (kind, own) = &seeds[random.below(seeds.len() as u64) as usize];
        let place = Format::ALL.iter().position(|(_, format)| format == kind);
        let mut text = vec![u8::try_from(place.expect("one of all")).expect("few")];
        text.extend(mutate::mutated(own, &WORDS, random));
        text
    };
    mutate::fuzz(TEXTS, tried, check);
}
