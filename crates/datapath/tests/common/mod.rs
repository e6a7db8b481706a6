//! A bench of one vnic in a network namespace and a BPF file system of its own, and the packets
//! that are put on it. A network namespace belongs to the test's thread and goes with it.
#![allow(dead_code, reason = "each test binary uses its own part of the bench")]
#![allow(
    unreachable_pub,
    reason = "the bench is a module of several test binaries"
)]

pub mod guests;
pub mod packets;

use lictor_datapath::{Datapath, VnicSpec, mount_bpffs};
use lictor_model::{Firewall, Frame};
use lictor_types::{
    AddressEntry, AtomId, AtomRange, Decision, Direction, Epoch, Generation, HostTables,
    IdentityId, Link, Mac, Protocol, RuleId, Segment, Verdict, Vlan, VlanId, VnicId, VnicName,
    VnicState,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub const VNIC: VnicId = VnicId(1);
pub const SEGMENT: Segment = Segment(7);
pub const GUEST_MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
pub const PEER_MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 2]);
pub const VIRTUAL_MAC: Mac = Mac([0, 0, 0x5e, 0, 1, 7]);
pub const DEVICE: &str = "host0";
/// The first Linux with tcx.
const TCX_SINCE: (u32, u32) = (6, 6);

/// What it is, its way, the packet, and the expected verdict with its reason.
pub type Case = (&'static str, Direction, Vec<u8>, &'static str);

/// Whether this process may run tests that need root. Without root they fail, unless asked to be
/// left out, which is said loudly.
pub fn privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("LICTOR_SKIP_PRIVILEGED").is_some_and(|value| value == "1"),
        "this test loads BPF programs: run it as root, or set LICTOR_SKIP_PRIVILEGED=1"
    );
    eprintln!("NOT TESTED: this test needs root and LICTOR_SKIP_PRIVILEGED=1 is set");
    false
}

/// Whether this kernel has tcx; tests that are about it are left out where it does not, loudly. The
/// kernel's release is asked too, so that a fault in our own detection leaves nothing out.
pub fn has_tcx() -> bool {
    let found = Datapath::check_kernel().expect("a kernel that will do").tcx;
    let names = nix::sys::utsname::uname().expect("the kernel has a name");
    let release = names.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut number = || numbers.next().expect("two numbers").expect("a number");
    let expected = (number(), number()) >= TCX_SINCE;
    assert_eq!(found, expected, "tcx on Linux {release}");
    if !found {
        eprintln!("NOT TESTED: Linux {release} has no tcx");
    }
    found
}

pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command has a first word");
    let output = Command::new(program)
        .args(words)
        .output()
        .expect("the command can be started");
    assert!(
        output.status.success(),
        "`{command}` failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A BPF file system in a folder of its own, gone with this value.
pub struct Bpffs {
    folder: tempfile::TempDir,
}

impl Bpffs {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        mount_bpffs(folder.path()).expect("a BPF file system can be mounted");
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let unmounted = nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH);
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error}", self.folder.path().display());
        }
    }
}

/// Puts the calling thread into a new network namespace.
pub fn own_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may unshare");
    run("ip link set lo up");
}

/// VLAN 10 leads to segment 8; the guest may speak as VRRP router 7 too.
pub fn link() -> Link {
    let vlan = Vlan {
        id: VlanId::new(10).expect("VLAN 10 exists"),
        segment: Segment(8),
    };
    Link::PLAIN
        .with_vlans(&[vlan])
        .and_then(|link| link.with_macs(&[VIRTUAL_MAC]))
        .expect("a valid link")
}

pub fn spec(sessions_max: u32) -> VnicSpec {
    VnicSpec {
        vnic: VNIC,
        name: VnicName::new("guest-1").expect("a valid name"),
        device: DEVICE.into(),
        mac: GUEST_MAC,
        segment: SEGMENT,
        sessions_max,
        link: link(),
        endpoint: lictor_types::Endpoint::Guest,
    }
}

pub struct Bench {
    pub datapath: Datapath,
    pub bpffs: Bpffs,
}

impl Bench {
    /// One open vnic under the tables of this module.
    pub fn new() -> Self {
        Self::with(1_024)
    }

    pub fn with(sessions_max: u32) -> Self {
        let mut bench = Self::bare();
        bench
            .datapath
            .attach(&spec(sessions_max))
            .expect("attaches");
        bench.datapath.load(&tables()).expect("loads");
        bench
            .datapath
            .set_state(VNIC, VnicState::Open)
            .expect("opens");
        bench
    }

    /// A device, nothing attached, nothing loaded.
    pub fn bare() -> Self {
        own_namespace();
        run("ip link add host0 type veth peer name guest0");
        let bpffs = Bpffs::new();
        let datapath = Datapath::open(bpffs.path()).expect("opens");
        Self { datapath, bpffs }
    }

    pub fn root(&self) -> PathBuf {
        self.bpffs.path().to_owned()
    }

    /// Asserts one packet's verdict and reason, as "allow session" or "deny revoked".
    pub fn check(&self, what: &str, direction: Direction, packet: &[u8], expected: &str) {
        let result = self
            .datapath
            .test_run(VNIC, direction, packet)
            .expect("runs");
        let found = format!("{} {}", result.verdict, result.reason);
        assert_eq!(found, expected, "{what} ({direction})");
    }
}

/// The model as a bench begins: open, under the tables of this module.
pub fn model() -> Firewall {
    model_with(&tables(), link())
}

pub fn model_with(tables: &HostTables, link: Link) -> Firewall {
    let mut model = Firewall::new(lictor_model::Vnic {
        vnic: VNIC,
        mac: GUEST_MAC,
        segment: SEGMENT,
        sessions_max: 1_024,
        link,
    });
    model.load(tables);
    model.set_state(VnicState::Open);
    model
}

/// Runs the packets in order on the model, and on one bench: what is expected was written by hand,
/// so that the two are not wrong together.
pub fn check(cases: Vec<Case>) -> Option<Bench> {
    let mut model = model();
    for (what, direction, packet, expected) in &cases {
        let answer = model.judge(&Frame {
            direction: *direction,
            at: Duration::ZERO,
            bytes: packet,
            came_by: None,
        });
        let found = format!("{} {}", answer.verdict, answer.reason);
        assert_eq!(found, *expected, "the model on {what} ({direction})");
    }
    if !privileged() {
        return None;
    }
    let bench = Bench::new();
    for (what, direction, packet, expected) in cases {
        bench.check(what, direction, &packet, expected);
    }
    Some(bench)
}

pub fn address(prefix: &str, identity: u32, vnic: u32, epoch: u64) -> AddressEntry {
    AddressEntry {
        segment: SEGMENT,
        prefix: prefix.parse().expect("a valid prefix"),
        identity: IdentityId(identity),
        vnic: (vnic != 0).then_some(VnicId(vnic)),
        epoch: Epoch(epoch),
        kind: lictor_types::AddressKind::Own,
        observe: false,
    }
}

/// In the segment that VLAN 10 leads to.
fn in_vlan(prefix: &str, identity: u32, vnic: u32) -> AddressEntry {
    AddressEntry {
        segment: Segment(8),
        ..address(prefix, identity, vnic, 1)
    }
}

fn atom(protocol: Protocol, first: u16, last: u16, atom: u16) -> AtomRange {
    AtomRange {
        protocol,
        first,
        last,
        atom: AtomId(atom),
    }
}

fn decision(peer: u32, direction: Direction, atom: u16, rule: i32) -> Decision {
    Decision {
        local: IdentityId(1),
        peer: IdentityId(peer),
        direction,
        atom: AtomId(atom),
        verdict: if rule > 0 {
            Verdict::Allow
        } else {
            Verdict::Deny
        },
        rule: RuleId(rule.unsigned_abs()),
        log: true,
        limit: 0,
        log_limit: 0,
        would: None,
    }
}

/// Guest 1 (10.0.0.1, fd00::1) may talk web, DNS, ping and GRE with guest 2 (10.0.0.2, fd00::2);
/// ssh from there is denied by a rule; 192.0.2.0/24 is nobody's friend.
pub fn tables() -> HostTables {
    use Direction::{Egress, Ingress};
    HostTables {
        generation: Generation(5),
        epoch: Epoch(9),
        addresses: vec![
            address("10.0.0.1/32", 1, 1, 1),
            address("fd00::1/128", 1, 1, 1),
            address(&format!("{}/128", GUEST_MAC.link_local()), 1, 1, 1),
            address("10.0.0.2/32", 2, 2, 2),
            address("fd00::2/128", 2, 2, 2),
            address("192.0.2.0/24", 3, 0, 0),
            address("::/0", 4, 0, 0),
            in_vlan("10.8.0.1/32", 1, 1),
            in_vlan("10.8.0.2/32", 2, 2),
        ],
        atoms: vec![
            atom(Protocol::Tcp, 0, 21, 2),
            atom(Protocol::Tcp, 22, 22, 8),
            atom(Protocol::Tcp, 23, 79, 2),
            atom(Protocol::Tcp, 80, 80, 1),
            atom(Protocol::Tcp, 81, 65_535, 2),
            atom(Protocol::Udp, 53, 53, 3),
            atom(Protocol::Icmp, 8 << 8, 8 << 8 | 255, 4),
            atom(Protocol::Icmpv6, 128 << 8, 128 << 8 | 255, 5),
            atom(Protocol::Icmpv6, 134 << 8, 134 << 8, 6),
            atom(Protocol::Other, 47, 47, 7),
            atom(Protocol::Ether, 0x88cc, 0x88cc, 9),
            atom(Protocol::Sctp, 80, 80, 10),
        ],
        decisions: vec![
            decision(2, Ingress, 1, 100),
            decision(2, Egress, 1, 101),
            decision(2, Egress, 3, 102),
            decision(2, Egress, 4, 103),
            decision(2, Ingress, 4, 104),
            decision(2, Egress, 5, 105),
            decision(2, Ingress, 5, 106),
            decision(2, Egress, 7, 107),
            decision(4, Ingress, 6, 108),
            decision(2, Ingress, 8, -200),
            decision(0, Egress, 9, 109),
            decision(2, Egress, 10, 110),
        ],
    }
}
