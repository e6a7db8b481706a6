//! Vnics without guests whose programs judge by the tables of one policy after the other.

#![allow(dead_code, reason = "each test uses its own part")]

use lictor_datapath::{Datapath, TestVerdict, VnicSpec, mount_bpffs};
use lictor_policy::{Compiled, Date, Labels, Tables};
use lictor_types::{
    AddressEntry, AddressKind, Direction, Endpoint, Epoch, Generation, HostTables, Link, Mac,
    Probe, RuleId, Segment, Verdict, VnicId, VnicName, VnicState,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

const SEGMENT: Segment = Segment(7);

fn run(words: &str) {
    let mut parts = words.split_whitespace();
    let program = parts.next().expect("a program");
    let output = Command::new(program)
        .args(parts)
        .output()
        .expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{words}`: {errors}");
}

/// Vnics in a network namespace of this thread, under the tables of one policy after the other.
pub(crate) struct Kernel {
    datapath: Datapath,
    folder: tempfile::TempDir,
    generation: u64,
    ends: u8,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let unmounted = nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH);
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error}", self.folder.path().display());
        }
    }
}

/// The addresses of the end with this number: no set of the random policies has them.
pub(crate) fn address(number: u8, v4: bool) -> IpAddr {
    match v4 {
        true => Ipv4Addr::new(172, 16, 0, number).into(),
        false => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

/// The address of the vnic with this number.
pub(crate) fn mac(number: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 1, number])
}

impl Kernel {
    /// With this many vnics.
    pub(crate) fn new(ends: u8) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may unshare");
        let folder = tempfile::tempdir().expect("a folder");
        mount_bpffs(folder.path()).expect("mounts");
        let mut datapath = Datapath::open(folder.path()).expect("opens");
        for number in 1..=ends {
            run(&format!(
                "ip link add h{number} type veth peer name g{number}"
            ));
            let spec = VnicSpec {
                vnic: VnicId(number.into()),
                name: VnicName::new(format!("v{number}")).expect("a name"),
                device: format!("h{number}"),
                mac: mac(number),
                segment: SEGMENT,
                sessions_max: 64,
                link: Link::PLAIN,
                endpoint: Endpoint::Guest,
            };
            datapath.attach(&spec).expect("attaches");
        }
        Self {
            datapath,
            folder,
            generation: 0,
            ends,
        }
    }

    /// Loads the tables of a policy as of a day, with these labels on the vnics from the first.
    pub(crate) fn load(
        &mut self,
        compiled: &Compiled,
        (ends, today): (&[(String, Labels)], Date),
    ) -> HostTables {
        self.generation += 1;
        let mut addresses = Vec::new();
        let mut identities = Vec::new();
        for (number, (_, labels)) in (1..).zip(ends) {
            let identity = compiled.identity_of(labels).expect("it was compiled in");
            identities.push(identity);
            let observe = compiled.observed_on(identity, today).is_some();
            addresses.extend([true, false].map(|v4| AddressEntry {
                segment: SEGMENT,
                prefix: address(number, v4).into(),
                identity,
                vnic: Some(VnicId(number.into())),
                epoch: Epoch(1),
                kind: AddressKind::Own,
                observe,
            }));
        }
        addresses.extend(compiled.prefixes.iter().map(|row| AddressEntry {
            segment: SEGMENT,
            prefix: row.prefix,
            identity: row.identity,
            vnic: None,
            epoch: Epoch(0),
            kind: AddressKind::Own,
            observe: false,
        }));
        identities.sort_unstable();
        identities.dedup();
        let tables = Tables::of(compiled).expect("holds together");
        let tables = HostTables {
            generation: Generation(self.generation),
            epoch: Epoch(1),
            addresses,
            atoms: compiled.atoms.clone(),
            decisions: identities
                .iter()
                .flat_map(|one| tables.decisions(*one))
                .collect(),
        };
        let tables = tables.canonical().expect("fits");
        self.datapath.load(&tables).expect("loads");
        for number in 1..=self.ends {
            let vnic = VnicId(number.into());
            self.datapath
                .set_state(vnic, VnicState::Open)
                .expect("opens");
        }
        tables
    }

    /// What a vnic's attached program does with a frame, from another vnic or from the uplink.
    pub(crate) fn judges(
        &self,
        number: u8,
        (frame, from): (&[u8], Option<u8>),
        way: Direction,
    ) -> TestVerdict {
        let id = |number: u8| VnicId(number.into());
        let (vnic, datapath) = (id(number), &self.datapath);
        let judged = match from {
            Some(from) => datapath.test_run_from(id(from), vnic, way, frame),
            None => datapath.test_run(vnic, way, frame),
        };
        judged.expect("it runs")
    }

    /// The verdict, the reason and the rule of a vnic's loaded program.
    pub(crate) fn says(
        &self,
        number: u8,
        probe: &Probe,
        way: Direction,
    ) -> (Verdict, String, RuleId) {
        let found = self
            .datapath
            .explain(VnicId(number.into()), probe, Some(way));
        let answer = found.expect("it runs").answer;
        (answer.verdict, answer.reason.to_string(), answer.rule)
    }
}
