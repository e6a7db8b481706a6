//! Loads, exports, imports, restarts: what outlives what.

mod common;

use common::packets::{OUT, ip, udp};
use common::{Bench, Bpffs, DEVICE, VNIC, privileged, spec, tables};
use lictor_datapath::{
    Datapath, Error, HookState, Hooks, How, ImportRefusal, Part, Told, VnicSpec,
};
use lictor_types::{
    ADDRESSES_PER_HOST_MAX, DECISIONS_PER_HOST_MAX, Decision, Direction, Epoch, Generation,
    HostTables, IdentityId, RuleId, SessionKey, SessionRecord, TcpEnd, TcpState, VnicState,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

fn query(port: u16) -> Vec<u8> {
    ip(Direction::Egress, OUT, 17, &udp((port, 53)))
}

fn record(number: u32) -> SessionRecord {
    let remote = Ipv4Addr::from(0x0a01_0000 + number);
    SessionRecord {
        key: SessionKey {
            segment: common::SEGMENT,
            protocol: 6,
            local: Ipv4Addr::new(10, 0, 0, 1).into(),
            remote: remote.into(),
            local_port: number as u16,
            remote_port: 80,
        },
        opened: Direction::Egress,
        state: TcpState::Established,
        rule: RuleId(number),
        generation: Generation(5),
        local_epoch: Epoch(1),
        remote_epoch: Epoch(2),
        idle_ms: 1_000,
        expires_in_ms: 600_000,
        packets: [3, 4],
        bytes: [300, 400],
        tcp: [
            TcpEnd {
                end: 1,
                end_max: 2,
                window_max: 3,
                acked: 0,
                scale: 7,
                flags: 1,
            },
            TcpEnd {
                end: 4,
                end_max: 5,
                window_max: 6,
                acked: 0,
                scale: 8,
                flags: 1,
            },
        ],
    }
}

#[test]
fn ten_thousand_sessions_survive_import_and_export() {
    if !privileged() {
        return;
    }
    let bench = Bench::with(16_384);
    let records: Vec<SessionRecord> = (0..10_000).map(record).collect();
    let receipt = bench.datapath.import(VNIC, &records).expect("imports");
    assert_eq!((receipt.imported, receipt.refused.len()), (10_000, 0));
    let found = bench.datapath.export(VNIC).expect("exports");
    let by_key: BTreeMap<_, _> = found.iter().map(|record| (record.key, *record)).collect();
    assert_eq!(
        (found.len(), by_key.len()),
        (10_000, 10_000),
        "each exactly once"
    );
    for record in &records {
        let found = by_key[&record.key];
        assert!(found.idle_ms >= record.idle_ms && found.expires_in_ms <= record.expires_in_ms);
        let (idle_ms, expires_in_ms) = (record.idle_ms, record.expires_in_ms);
        assert_eq!(
            SessionRecord {
                idle_ms,
                expires_in_ms,
                ..found
            },
            *record
        );
    }
    let again = bench.datapath.import(VNIC, &records[..1]).expect("imports");
    assert_eq!(again.refused, [(records[0].key, ImportRefusal::Exists)]);
    assert_eq!(bench.datapath.purge(VNIC).expect("purges"), 10_000);
    assert_eq!(bench.datapath.session_count(VNIC).expect("counts"), 0);
}

#[test]
fn an_import_refuses_what_does_not_belong_or_fit() {
    if !privileged() {
        return;
    }
    let bench = Bench::with(1);
    let foreign = SessionKey {
        segment: lictor_types::Segment(9),
        ..record(1).key
    };
    let records = [
        SessionRecord {
            key: foreign,
            ..record(1)
        },
        SessionRecord {
            expires_in_ms: 0,
            ..record(2)
        },
        record(3),
        record(4),
    ];
    let receipt = bench.datapath.import(VNIC, &records).expect("imports");
    let refused: Vec<_> = receipt.refused.iter().map(|(_, why)| *why).collect();
    assert_eq!(receipt.imported, 1);
    let expected = [
        ImportRefusal::OtherSegment,
        ImportRefusal::Expired,
        ImportRefusal::TableFull,
    ];
    assert_eq!(refused, expected);
}

#[test]
fn an_imported_session_is_judged_by_this_host() {
    if !privileged() {
        return;
    }
    let bench = Bench::new();
    bench.check("opens", Direction::Egress, &query(5), "allow policy-allow");
    let good = bench.datapath.export(VNIC).expect("exports")[0];
    bench.datapath.purge(VNIC).expect("purges");
    let bad = SessionRecord {
        key: SessionKey {
            remote_port: 54,
            ..good.key
        },
        ..good
    };
    bench.datapath.import(VNIC, &[good, bad]).expect("imports");
    bench.check(
        "policy allows it",
        Direction::Egress,
        &query(5),
        "allow session",
    );
    let other = ip(Direction::Egress, OUT, 17, &udp((5, 54)));
    bench.check("policy does not", Direction::Egress, &other, "deny revoked");
}

/// What whoever hears of every round knows: the local port of the session in each slot.
type Heard = BTreeMap<(u32, u32), u16>;

/// One round to its end in parts of about so many records: the local ports of what was told. Notes
/// what was heard.
fn round(bench: &Bench, told: &mut Told, heard: &mut Heard, max: usize) -> BTreeSet<u16> {
    let (mut ports, mut part) = (BTreeSet::new(), Part::default());
    loop {
        let exported = bench.datapath.export_part((VNIC, told), max, &mut part);
        exported.expect("exports");
        for (slot, record) in &part.records {
            ports.insert(record.key.local_port);
            heard.insert((part.table, *slot), record.key.local_port);
        }
        for slot in &part.gone {
            assert!(heard.remove(slot).is_some(), "{slot:?} was empty");
        }
        if part.ended {
            assert_eq!(told.count(), heard.len() as u64);
            return ports;
        }
        assert!(told.within_round());
    }
}

/// Longer than the kernel's coarse clock stands still, and than any program runs.
const TICK: Duration = Duration::from_millis(40);

#[test]
fn a_round_tells_what_changed_since_the_one_before_and_which_slots_are_empty() {
    if !privileged() {
        return;
    }
    [1, 100_000].into_iter().for_each(rounds);
}

fn rounds(max: usize) {
    let mut bench = Bench::new();
    let records: Vec<SessionRecord> = (10..14).map(record).collect();
    bench.datapath.import(VNIC, &records).expect("imports");
    let (mut told, mut heard) = (Told::default(), Heard::new());
    let mut check = |bench: &Bench, news: &[u16], all: &[u16]| {
        // What was heard of within the tick in which a round begins is told again.
        std::thread::sleep(TICK);
        let ports = round(bench, &mut told, &mut heard, max);
        assert_eq!(Vec::from_iter(ports), news);
        let mut known: Vec<_> = heard.values().copied().collect();
        known.sort_unstable();
        assert_eq!(known, all);
    };
    check(&bench, &[10, 11, 12, 13], &[10, 11, 12, 13]);
    check(&bench, &[], &[10, 11, 12, 13]);

    bench.check("new", Direction::Egress, &query(5), "allow policy-allow");
    let removed = bench.datapath.remove_sessions(VNIC, &[records[1].key]);
    assert_eq!(removed.expect("removes"), 1);
    check(&bench, &[5], &[5, 10, 12, 13]);

    // One that ended and began again is told, and is not gone.
    let removed = bench.datapath.remove_sessions(VNIC, &[records[2].key]);
    assert_eq!(removed.expect("removes"), 1);
    let again = SessionRecord {
        idle_ms: 0,
        ..record(12)
    };
    bench.datapath.import(VNIC, &[again]).expect("imports");
    check(&bench, &[12], &[5, 10, 12, 13]);

    // In another table everything that lasts is somewhere else, but nothing is gone.
    bench.datapath.resize(VNIC, 4_096).expect("resizes");
    check(&bench, &[10, 12, 13], &[5, 10, 12, 13]);
    // And back again into one that has another size than the first had.
    bench.datapath.resize(VNIC, 2_048).expect("resizes");
    bench.datapath.resize(VNIC, 8_192).expect("resizes");
    check(&bench, &[10, 12, 13], &[5, 10, 12, 13]);
    bench.datapath.purge(VNIC).expect("purges");
    check(&bench, &[], &[]);
}

#[test]
fn what_was_loaded_is_read_back_and_what_does_not_fit_is_refused() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::bare();
    assert!(matches!(
        bench.datapath.read_back(),
        Err(Error::NothingLoaded)
    ));
    let good = tables().canonical().expect("fits");
    let first = bench.datapath.load(&tables()).expect("loads");
    assert_eq!((first.version, first.digest), (1, good.digest()));
    let mut contradicting = tables();
    let decision = contradicting.decisions[0];
    contradicting.decisions.push(Decision {
        rule: RuleId(999),
        ..decision
    });
    assert!(matches!(
        bench.datapath.load(&contradicting),
        Err(Error::Tables(_))
    ));
    let mut crowded = tables();
    let many = (0..=DECISIONS_PER_HOST_MAX).map(|peer| Decision {
        peer: IdentityId(peer),
        ..decision
    });
    crowded.decisions = many.collect();
    assert!(matches!(
        bench.datapath.load(&crowded),
        Err(Error::Tables(_))
    ));
    assert_eq!(bench.datapath.read_back().expect("reads"), good);
    assert_eq!(bench.datapath.load(&tables()).expect("loads").version, 2);
    assert_eq!(
        bench.datapath.read_back().expect("reads").digest(),
        good.digest()
    );
}

/// Every address of 10.0.0.0/8 counted up from its first one, each of a guest of its own.
fn full_tables() -> HostTables {
    let mut tables = tables();
    let decision = tables.decisions[0];
    tables.addresses = (0..ADDRESSES_PER_HOST_MAX)
        .map(|number| {
            let ip = Ipv4Addr::from(0x0a00_0000 + number);
            common::address(&format!("{ip}/32"), number, 0, 1)
        })
        .collect();
    tables.decisions = (0..DECISIONS_PER_HOST_MAX)
        .map(|number| Decision {
            peer: IdentityId(number),
            ..decision
        })
        .collect();
    tables
}

#[test]
fn tables_at_their_limits_are_loaded_and_read_back() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::bare();
    let full = full_tables().canonical().expect("fits");
    bench.datapath.load(&full).expect("loads");
    assert_eq!(bench.datapath.read_back().expect("reads"), full);
    assert_eq!(bench.datapath.load(&tables()).expect("loads").version, 2);
}

#[test]
fn a_restart_keeps_hooks_state_sessions_and_tables() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::new();
    bench.check("opens", Direction::Egress, &query(5), "allow policy-allow");
    let root = bench.root();
    bench.datapath = Datapath::open(&root).expect("opens again");
    let status = bench.datapath.vnics().expect("lists");
    assert_eq!((status.len(), &status[0].spec), (1, &spec(1_024)));
    assert!(status[0].hooks.intact(), "{:?}", status[0].hooks);
    assert_eq!(status[0].state, VnicState::Open);
    bench.check("goes on", Direction::Egress, &query(5), "allow session");
    let again = bench.datapath.attach(&spec(1_024)).expect("is idempotent");
    assert!(again.adopted);
    assert_eq!(bench.datapath.state(VNIC).expect("reads"), VnicState::Open);
    bench.datapath.detach(VNIC).expect("detaches");
    assert!(matches!(
        bench.datapath.state(VNIC),
        Err(Error::UnknownVnic { .. })
    ));
    assert!(
        Datapath::open(&root)
            .expect("opens")
            .vnics()
            .expect("lists")
            .is_empty()
    );
}

#[test]
fn vnics_of_another_layout_are_not_guarded_a_second_time() {
    if !privileged() {
        return;
    }
    let bpffs = Bpffs::new();
    let other = bpffs.path().join("v7/vnics");
    std::fs::create_dir_all(other.join("0000000000000001")).expect("makes a folder");
    let error = Datapath::open(bpffs.path()).expect_err("another build's vnic");
    let told = format!(
        "{} holds vnics (1) of another layout of the maps",
        other.display()
    );
    assert!(error.to_string().starts_with(&told), "{error}");
    std::fs::remove_dir(other.join("0000000000000001")).expect("removes the folder");
    Datapath::open(bpffs.path()).expect("no vnic is left there");
}

#[test]
fn lost_hooks_are_seen_and_repaired() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::bare();
    bench.datapath.prefer_clsact();
    let attachment = bench.datapath.attach(&spec(16)).expect("attaches");
    assert_eq!(
        (attachment.how, attachment.foreign, attachment.adopted),
        (How::Clsact, 0, false)
    );
    assert!(bench.datapath.verify_hooks(VNIC).expect("reads").intact());
    common::run(&format!("tc qdisc del dev {DEVICE} clsact"));
    assert!(!bench.datapath.verify_hooks(VNIC).expect("reads").attached());
    bench.datapath.attach(&spec(16)).expect("repairs");
    assert!(bench.datapath.verify_hooks(VNIC).expect("reads").intact());
}

/// Another firewall on our device: a data plane with pins of its own.
fn stranger(bpffs: &Bpffs) -> Datapath {
    Datapath::open(bpffs.path()).expect("opens")
}

fn hooks(bench: &Bench) -> (Hooks, bool) {
    let hooks = bench.datapath.verify_hooks(VNIC).expect("reads");
    (hooks, hooks.intact())
}

fn preceded(egress: u32, ingress: u32) -> Hooks {
    let hook = |foreign_before| HookState {
        attached: true,
        foreign_before,
    };
    Hooks {
        egress: hook(egress),
        ingress: hook(ingress),
    }
}

#[test]
fn a_foreign_tcx_program_before_ours_is_seen() {
    if !privileged() || !common::has_tcx() {
        return;
    }
    let bench = Bench::new();
    assert_eq!(hooks(&bench), (preceded(0, 0), true));
    let bpffs = Bpffs::new();
    let mut other = stranger(&bpffs);
    let attachment = other.attach(&spec(16)).expect("attaches before ours");
    assert_eq!((attachment.how, attachment.foreign), (How::Tcx, 0));
    assert_eq!(hooks(&bench), (preceded(1, 1), false));
    other.detach(VNIC).expect("detaches");
    assert_eq!(hooks(&bench), (preceded(0, 0), true));
}

#[test]
fn a_foreign_tcx_program_before_our_filter_is_seen() {
    if !privileged() || !common::has_tcx() {
        return;
    }
    let mut bench = Bench::bare();
    bench.datapath.prefer_clsact();
    bench.datapath.attach(&spec(16)).expect("attaches");
    let bpffs = Bpffs::new();
    stranger(&bpffs).attach(&spec(16)).expect("attaches");
    assert_eq!(hooks(&bench), (preceded(1, 1), false));
}

#[test]
fn foreign_filters_before_ours_are_seen_and_later_ones_do_no_harm() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::bare();
    bench.datapath.prefer_clsact();
    bench.datapath.attach(&spec(16)).expect("attaches");
    // The stranger's program comes from pins, on a device of its own, so that it is loaded.
    common::run("ip link add other0 type veth peer name other1");
    let bpffs = Bpffs::new();
    let elsewhere = VnicSpec {
        device: "other0".into(),
        ..spec(16)
    };
    stranger(&bpffs).attach(&elsewhere).expect("attaches");
    let layout = std::fs::read_dir(bpffs.path()).expect("readable").next();
    let layout = layout.expect("one layout").expect("readable").path();
    let program = layout.join("vnics/1/from_guest");
    let filter = |action: &str, hook: &str, place: &str| {
        let program = program.display();
        common::run(&format!(
            "tc filter {action} dev {DEVICE} {hook} {place} bpf object-pinned {program} da"
        ));
    };
    filter("add", "ingress", "pref 2");
    filter("add", "egress", "");
    assert_eq!(hooks(&bench), (preceded(0, 0), true), "both after ours");
    // No priority is smaller than ours, but the newest of one priority runs first.
    filter("add", "ingress", "pref 1 handle 2");
    assert_eq!(hooks(&bench), (preceded(1, 0), false), "beside ours");
    filter("add", "egress", "pref 1 handle 2");
    assert_eq!(hooks(&bench), (preceded(1, 1), false), "beside ours");
    filter("replace", "ingress", "pref 1 handle 1");
    let (found, intact) = hooks(&bench);
    assert!(!intact && !found.egress.attached, "{found:?}");
}

/// Makes a device of some kind, if this kernel has it.
fn made(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let mut process = std::process::Command::new(words.next().expect("a first word"));
    let output = process.args(words).output().expect("ip can be started");
    output.status.success()
}

#[test]
fn devices_that_hooks_do_not_reach_are_refused_with_the_next_step() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::bare();
    let kinds = [
        ("ip link add odd0 type bridge", "a bridge is not"),
        ("ip link add odd0 type dummy", "a dummy is not"),
        (
            "ip link add odd0 link host0 type macvlan",
            "below the device's hooks",
        ),
        (
            "ip link add odd0 link host0 type macvtap",
            "below the device's hooks",
        ),
        (
            "ip link add odd0 link host0 type ipvlan",
            "below the device's hooks",
        ),
        ("ip link add odd0 type netkit", "no hooks for tc"),
        ("ip tuntap add odd0 mode tun", "without the frames"),
    ];
    let mut refused = Vec::new();
    for (command, expected) in kinds {
        if !made(command) {
            eprintln!("this kernel has none: {command}");
            continue;
        }
        let odd = VnicSpec {
            device: "odd0".into(),
            ..spec(16)
        };
        let error = bench.datapath.attach(&odd).expect_err("refused");
        let text = error.to_string();
        assert!(
            text.contains(expected) && text.contains("give the guest a tap"),
            "{text}"
        );
        assert_eq!(bench.datapath.vnics().expect("lists"), [], "{command}");
        common::run("ip link del odd0");
        refused.push(command);
    }
    assert!(
        refused.contains(&kinds[0].0),
        "every kernel here has bridges"
    );
}
