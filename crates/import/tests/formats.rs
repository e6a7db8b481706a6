//! What rules of each format mean after the import: questions as data, and what is noted.

mod support;

use lictor_import::{Effect, Format, NOTES_MAX, import};
use support::{archive, check, imported, noted, policy, shared, source};

#[test]
fn iptables_chains_are_written_out_and_what_can_not_be_said_closes() {
    let rules = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n*filter\n\
        :INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:web - [0:0]\n\
        -A INPUT -i lo -j ACCEPT\n\
        -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -m comment --comment \"an \\\"admin\\\"\" \
        -j ACCEPT\n\
        -A INPUT -p tcp -j web\n-A INPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT\n\
        -A INPUT -m set --match-set bad src -j DROP\n\
        -A FORWARD -s 192.168.1.0/24 ! -d 192.168.2.0/24 -p udp -m multiport --dports 53,123:125 \
        -j ACCEPT\n\
        -A FORWARD -i eth0 -j ACCEPT\n\
        -A web ! -s 172.16.0.0/12 -p tcp -m multiport --dports 80,443 -j ACCEPT\n\
        -A web -j RETURN\nCOMMIT\n";
    let found = imported(Format::Iptables, &[source("rules.v4", rules.as_bytes())]);
    let (inside, other) = ("in.net-192.168.1.0_24:yes", "in.net-192.168.2.0_24:yes");
    check(&found, "10.1.1.1 machine:yes tcp/22", "- allow");
    check(&found, "11.1.1.1 machine:yes tcp/22", "- deny");
    check(&found, "11.1.1.1 machine:yes tcp/443", "- allow");
    check(&found, "172.16.1.1 machine:yes tcp/443", "- deny");
    check(&found, "11.1.1.1 machine:yes icmp/8", "- allow");
    check(&found, "11.1.1.1 machine:yes icmp/0", "- deny");
    check(&found, "machine:yes 11.1.1.1 udp/9", "allow -");
    // A file of IPv4 says nothing of IPv6.
    check(&found, "machine:yes 2001:db8::1 udp/9", "deny -");
    check(&found, &format!("{inside} 11.1.1.1 udp/124"), "allow -");
    check(&found, &format!("{inside} {other} udp/124"), "deny deny");
    noted(&found, Effect::Closes, "would allow more");
    noted(&found, Effect::Closes, "denies more");
    noted(&found, Effect::None, "in.net-192.168.1.0_24:yes");
    assert!(
        import(
            Format::Iptables,
            "n",
            &[source("x", b"*filter\n-A X -j ACCEPT\n")]
        )
        .is_err()
    );
    let circle = "*filter\n:INPUT DROP [0:0]\n:a - [0:0]\n-A INPUT -j a\n-A a -j a\nCOMMIT\n";
    let circle = import(Format::Iptables, "n", &[source("x", circle.as_bytes())]);
    assert!(
        circle
            .expect_err("a circle")
            .to_string()
            .contains("too deep")
    );
}

#[test]
fn proxmox_rules_speak_at_their_guests_end() {
    let cluster = "[OPTIONS]\nenable: 1\n[ALIASES]\noffice 10.20.0.0/16 # staff\n\
        [IPSET admins]\noffice\n!10.20.9.0/24\n\
        [IPSET blacklist]\n198.51.100.0/24\n!198.51.100.9\n[group web]\nIN HTTPS(ACCEPT)\n\
        [RULES]\nIN SSH(ACCEPT) -source +admins\n";
    let guest = "[OPTIONS]\nenable: 1\n[RULES]\nGROUP web\n\
        IN ACCEPT -source dc/office -p tcp -dport 22,8000:8010 # ssh\n|IN ACCEPT -p udp\n\
        OUT REJECT -dest 192.0.2.0/24\nIN FOO(ACCEPT)\n";
    let found = imported(
        Format::Proxmox,
        &[
            source("fw/cluster.fw", cluster.as_bytes()),
            source("fw/100.fw", guest.as_bytes()),
            source("fw/101.fw", b"[OPTIONS]\nenable: 0\n"),
        ],
    );
    check(&found, "192.0.2.1 vm-100 tcp/443", "- allow");
    check(&found, "10.20.1.1 vm-100 tcp/8005", "- allow");
    check(&found, "198.51.100.1 vm-100 tcp/443", "- deny");
    check(&found, "198.51.100.9 vm-100 tcp/443", "- allow");
    check(&found, "198.51.100.1 vm-101 tcp/443", "- allow");
    check(&found, "198.51.100.1 host:a tcp/443", "- deny");
    check(&found, "10.21.1.1 vm-100 tcp/22", "- deny");
    check(&found, "vm-100 192.0.2.1 tcp/443", "reject -");
    check(&found, "vm-100 vm-101 udp/9", "allow allow");
    check(&found, "vm-101 vm-100 udp/9", "allow deny");
    check(&found, "10.20.1.1 host:a tcp/22", "- allow");
    check(&found, "10.20.9.1 host:a tcp/22", "- deny");
    noted(&found, Effect::Closes, "FOO");
    noted(&found, Effect::None, "disabled");
    assert!(import(Format::Proxmox, "n", &[source("1.fw", b"[RULES\n")]).is_err());
}

/// As in Proxmox's own simulator of its tests, whose files are not in this repository.
#[test]
fn a_rule_that_proxmox_takes_no_notice_of_decides_nothing_here_either() {
    let cluster = "[OPTIONS]\nenable: 1\npolicy_out: DROP\n[ALIASES]\nlan 10.1.0.0/16\n\
        local_network 172.16.1.0/24\n[IPSET management]\n192.0.2.8\n[RULES]\nIN DROP -p tcp\n";
    let guest = "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -dport 80\nIN DROP -p gre -dport 82\n\
        IN ACCEPT -source lan,10.2.0.0/16 -p tcp -dport 81\nIN ACCEPT -icmp-type echo-request\n\
        IN ACCEPT -p udp -sport 53 -dport 9\n\
        IN ACCEPT -source 10.2.0.0/16,10.3.0.1 -p tcp -dport 82\n\
        IN ACCEPT -source 10.2.0.0/16,2001:db8::/32 -p tcp -dport 83\nIN ACCEPT -p gre\n";
    let own = "[OPTIONS]\nenable: 1\n[RULES]\nOUT DROP -source 10.9.0.1 -p tcp -dport 80\n\
        IN ACCEPT -dest 10.9.0.1 -p tcp -dport 80\n";
    let known = format!("{own}[IPSET ipfilter-net0]\n10.9.0.1\n");
    let found = imported(
        Format::Proxmox,
        &[
            source("fw/101.fw", own.as_bytes()),
            source("fw/102.fw", known.as_bytes()),
            source("fw/cluster.fw", cluster.as_bytes()),
            source(
                "fw/nodes/pve1/host.fw",
                b"[RULES]\nIN DROP -p udp -dport 1\n",
            ),
            source("fw/100.fw", guest.as_bytes()),
        ],
    );
    check(&found, "192.0.2.1 vm-100 tcp/80", "- deny");
    check(&found, "10.2.0.1 vm-100 tcp/81", "- deny");
    check(&found, "10.2.0.1 vm-100 tcp/82", "- allow");
    check(&found, "10.2.0.1 vm-100 tcp/83", "- deny");
    check(&found, "192.0.2.1 vm-100 icmp/8", "- deny");
    check(&found, "192.0.2.1 vm-100 udp/9", "- deny");
    check(&found, "192.0.2.1 vm-100 gre", "- allow");
    for mistake in [
        "`dport` needs",
        "a list has",
        "`icmp-type` needs",
        "both families",
    ] {
        noted(&found, Effect::None, mistake);
    }
    noted(&found, Effect::None, "sport can't be said");
    noted(&found, Effect::Closes, "DHCP");
    // Who knows the addresses of the own end knows what a condition on them means.
    check(&found, "vm-101 192.0.2.1 tcp/80", "deny -");
    check(&found, "192.0.2.1 vm-101 tcp/80", "- deny");
    check(&found, "vm-102 192.0.2.1 tcp/80", "deny -");
    check(&found, "192.0.2.1 vm-102 tcp/80", "- allow");
    noted(&found, Effect::Closes, "101.fw: IN ACCEPT -dest");
    // Hosts in their own network, whatever the policy of the data centre says.
    check(&found, "host:pve1 172.16.1.9 tcp/8006", "allow -");
    check(&found, "host:pve1 172.16.1.9 tcp/21", "deny -");
    check(&found, "host:pve1 172.16.2.9 tcp/22", "deny -");
    check(&found, "host:pve1 172.16.2.9 igmp", "allow -");
    check(&found, "172.16.1.9 host:pve1 tcp/22", "- deny");
    noted(&found, Effect::Closes, "corosync");
    let estate = found.estate.as_ref().expect("there are hosts");
    let hosts: Vec<&str> = estate.hosts.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(hosts, ["host", "pve1"]);
}

#[test]
fn security_groups_of_aws_speak_at_their_members_end() {
    let groups = r#"{"SecurityGroups":[{"GroupId":"sg-1","GroupName":"web",
        "IpPermissions":[{"IpProtocol":"tcp","FromPort":443,"ToPort":443,
            "IpRanges":[{"CidrIp":"0.0.0.0/0"}]},
          {"IpProtocol":"icmp","FromPort":8,"ToPort":-1,"IpRanges":[{"CidrIp":"10.0.0.0/8"}]}],
        "IpPermissionsEgress":[{"IpProtocol":"tcp","FromPort":5432,"ToPort":5432,
            "UserIdGroupPairs":[{"GroupId":"sg-2"}]}]},
      {"GroupId":"sg-2","GroupName":"db","IpPermissions":[{"IpProtocol":"-1",
            "UserIdGroupPairs":[{"GroupId":"sg-1"}],"PrefixListIds":[{"PrefixListId":"pl-1"}]}],
        "IpPermissionsEgress":[]}]}"#;
    let instances = r#"{"Reservations":[{"Instances":[
        {"InstanceId":"i-web","PrivateIpAddress":"10.0.0.4","SecurityGroups":[{"GroupId":"sg-1"}]},
        {"InstanceId":"i-db","PrivateIpAddress":"10.0.0.5",
            "SecurityGroups":[{"GroupId":"sg-2"}]}]}]}"#;
    let found = imported(
        Format::Sg,
        &[
            source("sg.json", groups.as_bytes()),
            source("i.json", instances.as_bytes()),
        ],
    );
    check(&found, "i-web i-db tcp/5432", "allow allow");
    check(&found, "i-web i-db tcp/22", "deny allow");
    check(&found, "i-db i-web tcp/443", "deny allow");
    check(&found, "i-db i-web icmp/8", "deny allow");
    check(&found, "198.51.100.1 i-web tcp/443", "- allow");
    check(&found, "2001:db8::1 i-web tcp/443", "- deny");
    check(&found, "11.0.0.1 i-web icmp/8", "- deny");
    noted(&found, Effect::Closes, "pl-1");
}

#[test]
fn security_groups_of_azure_have_their_default_rules() {
    let groups = r#"[{"name":"web","id":"/x/web","securityRules":[
        {"name":"https","priority":100,"direction":"Inbound","access":"Allow","protocol":"Tcp",
         "sourceAddressPrefix":"Internet","sourcePortRange":"*","destinationAddressPrefix":"*",
         "destinationPortRange":"443"},
        {"name":"tag","priority":110,"direction":"Outbound","access":"Deny","protocol":"*",
         "sourceAddressPrefix":"*","destinationAddressPrefix":"Storage",
         "destinationPortRanges":["80","443-445"]},
        {"name":"first","properties":{"priority":90,"direction":"Inbound","access":"Deny",
         "protocol":"Tcp","sourceAddressPrefix":"198.51.100.0/24","sourcePortRange":"*",
         "destinationAddressPrefix":"*","destinationPortRange":"443"}}]}]"#;
    let nics = r#"{"value":[{"name":"n1","ipConfigurations":[{"privateIPAddress":"10.0.0.4"}],
        "networkSecurityGroup":{"id":"/x/web"},"virtualMachine":{"id":"/y/vm1"}}]}"#;
    let found = imported(
        Format::Nsg,
        &[
            source("nsg.json", groups.as_bytes()),
            source("nic.json", nics.as_bytes()),
        ],
    );
    check(&found, "203.0.113.1 vm1 tcp/443", "- allow");
    check(&found, "198.51.100.9 vm1 tcp/443", "- deny");
    check(&found, "203.0.113.1 vm1 tcp/80", "- deny");
    check(&found, "168.63.129.16 vm1 tcp/80", "- allow");
    check(&found, "vm1 203.0.113.1 udp/1", "allow -");
    noted(&found, Effect::Opens, "Storage");
}

#[test]
fn aerleon_samples_are_imported_with_their_owners_and_last_days() {
    let text = "header {\n comment:: \"a filter\"\n target:: juniper x\n}\n\
        term web {\n comment:: \"why\"\n owner:: web@example.com\n expiration:: 2029-12-31\n \
        destination-address:: WEB\n source-exclude:: BAD\n protocol:: tcp\n \
        destination-port:: HTTP\n action:: accept\n}\n\
        term old {\n option:: tcp-established\n action:: accept\n}\n\
        term odd {\n packet-length:: 10\n action:: accept\n}\n\
        term rest {\n action:: deny\n}\n";
    let found = imported(
        Format::Aerleon,
        &[
            source("a.pol", text.as_bytes()),
            source(
                "d.net",
                b"WEB = 10.1.0.0/16 # web\n      INNER\nINNER = 10.2.0.1\nBAD = 192.0.2.0/24\n",
            ),
            source("d.svc", b"HTTP = 80/tcp 8080-8081/tcp 80/udp\n"),
        ],
    );
    check(&found, "203.0.113.1 in.WEB:yes tcp/8081", "- allow");
    check(&found, "203.0.113.1 in.WEB:yes udp/80", "- deny");
    check(&found, "192.0.2.1 in.WEB:yes tcp/80", "- deny");
    let rule = &policy(&found).tiers[0].rules[0];
    assert_eq!(rule.owner.as_deref(), Some("web@example.com"));
    assert_eq!(
        rule.expires.map(|day| day.to_string()).as_deref(),
        Some("2029-12-30"),
        "on the day of its expiration a term is left out there"
    );
    noted(&found, Effect::Closes, "odd");
    let Some(bytes) = shared("aerleon/samples.tar.gz") else {
        return;
    };
    let files = archive(&bytes);
    let shared: Vec<_> = files
        .iter()
        .filter(|(path, _)| !path.contains("/pol/"))
        .collect();
    let (mut count, mut failed) = (0, Vec::new());
    for (path, bytes) in files.iter().filter(|(path, _)| path.contains("/pol/")) {
        let mut sources = vec![source(path, bytes)];
        sources.extend(shared.iter().map(|(path, bytes)| source(path, bytes)));
        match import(Format::Aerleon, "sample", &sources) {
            Ok(found) => count += found.rules,
            Err(error) => failed.push(format!("{path}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(count > 100, "only {count} rules were imported");
}

#[test]
fn admin_policies_of_kubernetes_stand_above_and_below_the_others() {
    let yaml = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: a, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: b, labels: {app: db}}
---
apiVersion: v1
kind: Namespace
metadata: {name: b, labels: {zone: inner}}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: second}
spec:
  priority: 20
  subject: {namespaces: {}}
  ingress:
  - name: deny-rest
    action: Deny
    from: [{namespaces: {}}]
    ports: [{portRange: {protocol: TCP, start: 1, end: 99}}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: first}
spec:
  priority: 10
  subject:
    pods:
      namespaceSelector: {matchLabels: {zone: inner}}
      podSelector: {matchLabels: {app: db}}
  ingress:
  - action: Allow
    from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}]
    ports: [{portNumber: {protocol: TCP, port: 22}}]
  - action: Pass
    from: [{namespaces: {}}]
    ports: [{portNumber: {protocol: TCP, port: 80}}]
  egress:
  - {action: Deny, to: [{networks: [10.0.0.0/8]}]}
  - action: Allow
    to: [{pods: {namespaceSelector: {}, podSelector: {}}}]
    ports: [{namedPort: http}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-web, namespace: b}
spec:
  podSelector: {}
  ingress:
  - from: [{namespaceSelector: {matchExpressions: [{key: zone, operator: DoesNotExist}]}}]
    ports: [{port: 80}, {protocol: UDP, port: 53}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: a}}}
  ingress:
  - {action: Deny, from: [{namespaces: {}}]}
";
    let found = imported(Format::K8s, &[source("all.yaml", yaml.as_bytes())]);
    let (web, db) = ("a/web[Pod]", "b/db[Pod]");
    let ask = |from: &str, to: &str, port: &str, expected: &str| {
        check(&found, &format!("{from} {to} {port}"), expected);
    };
    ask(web, db, "tcp/22", "allow allow");
    ask(web, db, "tcp/23", "allow deny");
    ask(web, db, "tcp/80", "allow allow");
    ask(web, db, "udp/53", "allow allow");
    ask(web, db, "udp/54", "allow deny");
    ask(db, web, "tcp/8080", "allow deny");
    ask(db, "10.1.1.1", "tcp/8080", "deny -");
    ask(db, "11.1.1.1", "tcp/8080", "allow -");
    ask("11.1.1.1", web, "tcp/8080", "- allow");
    assert!(
        found.notes.iter().all(|note| note.effect == Effect::None),
        "{:?}",
        found.notes
    );
}

#[test]
fn ports_of_one_name_are_told_apart_and_unknown_fields_widen_nothing() {
    let yaml = "
kind: Pod
apiVersion: v1
metadata: {generateName: dns-, namespace: a, labels: {app: dns}}
spec:
  containers:
  - {name: c, ports: [{name: dns, containerPort: 5353, protocol: UDP}]}
  - {name: d, ports: [{name: dns, containerPort: 8053}, {name: dns, containerPort: 1}]}
---
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: {name: c}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress:
  - {action: Accept, from: [{namespaces: {}}], protocols: [{destinationNamedPort: dns}]}
  - action: Accept
    from: [{namespaces: {sameLabels: [x]}}]
    protocols: [{tcp: {destinationPort: {number: 9}}}]
  - {action: Deny, from: [{namespaces: {sameLabels: [x]}}]}
";
    let found = imported(Format::K8s, &[source("x.yaml", yaml.as_bytes())]);
    let dns = "a/dns-[Pod]";
    for (port, expected) in [
        ("udp/5353", "allow allow"),
        ("tcp/8053", "allow allow"),
        ("tcp/1", "allow deny"),
        ("tcp/9", "allow deny"),
    ] {
        check(&found, &format!("{dns} {dns} {port}"), expected);
    }
    noted(&found, Effect::Closes, "sameLabels");
}

/// As the API says of `networks`, and as its conformance tests expect; an `ipBlock` of a network
/// policy is about the outside.
#[test]
fn networks_of_an_admin_match_pods_too() {
    let yaml = "
kind: Pod
apiVersion: v1
metadata: {name: a, namespace: x}
status: {podIP: 10.1.0.1}
---
kind: Pod
apiVersion: v1
metadata: {name: b, namespace: y}
status: {podIP: 10.2.0.1}
---
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: {name: c}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: x}}}
  egress:
  - action: Accept
    to: [{networks: [10.2.0.0/16]}]
    protocols: [{tcp: {destinationPort: {number: 9}}}]
  - {action: Deny, to: [{networks: [0.0.0.0/0]}]}
";
    let found = imported(Format::K8s, &[source("x.yaml", yaml.as_bytes())]);
    check(&found, "x/a[Pod] y/b[Pod] tcp/9", "allow allow");
    check(&found, "x/a[Pod] y/b[Pod] tcp/8", "deny allow");
    check(&found, "x/a[Pod] 10.2.9.9 tcp/9", "allow -");
    check(&found, "x/a[Pod] 10.3.0.1 tcp/9", "deny -");
    check(&found, "x/a[Pod] 2001:db8::1 tcp/9", "allow -");
}

#[test]
fn the_conformance_manifests_are_imported_and_nothing_opens() {
    let Some(bytes) = shared("network-policy-api/conformance-manifests.tar.gz") else {
        return;
    };
    let mut count = 0;
    for (path, bytes) in archive(&bytes) {
        // Those with `{{` are templates and no YAML.
        let template = bytes.windows(2).any(|pair| pair == b"{{");
        if !path.contains("/base/") || !path.ends_with(".yaml") || template {
            continue;
        }
        let found = imported(Format::K8s, &[source(&path, &bytes)]);
        let opens: Vec<_> = found
            .notes
            .iter()
            .filter(|note| note.effect == Effect::Opens)
            .collect();
        assert!(opens.is_empty(), "{path}: {opens:?}");
        count += 1;
    }
    assert!(count >= 16, "only {count} manifests");
}

#[test]
fn bad_input_is_an_error_in_every_format() {
    let deep = "[".repeat(100_000);
    let aliases = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &(0..20).fold(String::new(), |text, i| {
            let (name, inner) = (
                i + 1,
                if i == 0 {
                    "a".to_owned()
                } else {
                    format!("a{i}")
                },
            );
            let list = vec![format!("*{inner}"); 9].join(",");
            format!("{text}b{name}: &a{name} [{list}]\n")
        });
    for (_, format) in Format::ALL {
        for text in [
            "", "\u{0}", "{", "[", "]", "a: b: c", "[RULES", &deep, &aliases, "\"x",
        ] {
            for name in ["x.yaml", "x.json", "x.fw", "x.pol"] {
                let found = import(format, "n", &[source(name, text.as_bytes())]);
                assert!(found.is_err(), "{format} {name} {text:.20}");
            }
        }
        assert!(import(format, "n", &[source("x.json", b"\xff\xfe")]).is_err());
        assert!(import(format, "n", &[]).is_err());
    }
    const { assert!(NOTES_MAX > 1_000) };
}

#[test]
fn nothing_that_is_not_read_is_dropped_without_a_word() {
    let calico = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: c}\n\
        ---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: z}\n\
        ---\nreplicas: 3\n---\n- kind: Pod\n  metadata: {name: p, labels: {app: a}}\n";
    let found = imported(Format::K8s, &[source("x.yaml", calico.as_bytes())]);
    noted(&found, Effect::Opens, "projectcalico.org/v3 is another API");
    noted(&found, Effect::Opens, "CiliumNetworkPolicy default/z");
    noted(&found, Effect::None, "a document without a kind");
    let guests = found.estate.map_or(0, |estate| estate.guests.len());
    assert_eq!(guests, 1, "the list's pod");
    let tabs = b"\xef\xbb\xbf{\"kind\":\t\"Pod\", \"metadata\": {\"name\": \"p\"}}\n\
        {\n\t\"kind\": \"PodList\", \"Items\": [{\"metadata\": {\"name\": \"q\"}}]}";
    let found = imported(Format::K8s, &[source("x.json", tabs)]);
    let guests = found.estate.map_or(0, |estate| estate.guests.len());
    assert_eq!(guests, 2, "{:?}", found.notes);
}

#[test]
fn what_iptables_can_not_be_told_widens_no_rule() {
    let rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 192.0.2.1/32 -j DROP\nCOMMIT\n\
        *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        [12:3456] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
        -A INPUT -p nosuch -j ACCEPT\n-A INPUT -p tcp -m tcp --dport ssh -j ACCEPT\n\
        -A INPUT -p icmp -m icmp --icmp-type nosuch -j ACCEPT\nCOMMIT\n";
    let found = imported(Format::Iptables, &[source("rules", rules.as_bytes())]);
    check(&found, "192.0.2.9 machine:yes tcp/22", "- allow");
    check(&found, "192.0.2.9 machine:yes tcp/80", "- deny");
    check(&found, "192.0.2.9 machine:yes icmp/8/0", "- deny");
    noted(&found, Effect::Opens, "the table raw is not imported");
    for unsaid in ["-p nosuch", "--dport ssh", "--icmp-type nosuch"] {
        noted(&found, Effect::None, unsaid);
    }
    let other = "*filter\n:INPUT DROP [0:0]\n-I INPUT 1 -j ACCEPT\nCOMMIT\n";
    let error = import(Format::Iptables, "n", &[source("x", other.as_bytes())]);
    assert!(error.is_err_and(|error| error.to_string().contains("line 3")));
}

#[test]
fn what_is_too_much_is_refused_before_it_takes_room() {
    let json = format!("[{}1]", "1,".repeat(4_000_000));
    let pol = format!(
        "header {{ }}\n{}",
        "term a { action:: deny }\n".repeat(700_000)
    );
    let fw = format!("[RULES]\n{}", "IN ACCEPT -p tcp\n".repeat(70_000));
    let rules = "-A INPUT -j DROP\n".repeat(262_145);
    let rules = format!("*filter\n:INPUT DROP [0:0]\n{rules}COMMIT\n");
    for (format, name, text, part) in [
        (Format::Sg, "x.json", json.as_str(), "4000000 values"),
        (Format::Nsx, "x.json", json.as_str(), "4000000 values"),
        (Format::Aerleon, "x.pol", pol.as_str(), "4000000 words"),
        (Format::Proxmox, "cluster.fw", fw.as_str(), "70004 rules"),
        (Format::Iptables, "x", rules.as_str(), "262144 rules"),
    ] {
        let error = import(format, "n", &[source(name, text.as_bytes())]);
        let error = error.expect_err(name).to_string();
        assert!(error.contains(part), "{format}: {error}");
    }
}
