//! Bindings lie inside a delegation or the whole log is refused; the plan follows from what is
//! left.

mod support;

use lictor_policy::{Action, At, Date, Hour, LineRow, Mode, Moment, ObserveRow, RuleInfo};
use lictor_types::{
    AddressKind, AtomId, Direction, Epoch, HostTables, IdentityId, Mac, RuleId, Segment, SharedId,
    Verdict, Vlan, VlanId, VnicId,
};
use lictor_wire::binding::{self, BindingLog};
use lictor_wire::plan::class_digest;
use lictor_wire::{
    Bindings, Isolation, LinkBinding, PlanError, VerifiedRelease, host_tables, release,
};
use support::{CORP, DB, Installation, SET, host, labels, line, rule};

fn today() -> Date {
    Date::new(2026, 11, 24).expect("a day")
}

fn verified(here: &Installation) -> VerifiedRelease {
    release::verify(&here.signed(1), &here.trust(), None).expect("accepted")
}

fn good(here: &Installation) -> BindingLog {
    BindingLog {
        bindings: vec![
            here.binding("db", "cde", 1).sign(&here.owner),
            here.binding("corp", "corp", 2).sign(&here.owner),
        ],
        attestations: vec![here.attestation("db", 1, "10.1.0.10").sign(&here.agent_a)],
    }
}

#[track_caller]
fn check_refused(here: &Installation, log: &BindingLog, expected: &str) {
    let error = binding::verify(log, &verified(here), Epoch(0)).expect_err("must be refused");
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn a_delegated_log_is_accepted_whole() {
    let here = Installation::new();
    let bindings = binding::verify(&good(&here), &verified(&here), Epoch(2)).expect("accepted");
    assert_eq!(bindings.guests().count(), 2);
    assert_eq!(bindings.epoch(), Epoch(2));
    assert_eq!(bindings.addresses(VnicId(1)).len(), 1);
}

#[test]
fn every_step_outside_the_delegation_refuses_the_log() {
    let here = Installation::new();
    let with = |change: &dyn Fn(&mut lictor_wire::Binding)| {
        let mut log = good(&here);
        let mut binding = here.binding("db", "cde", 1);
        change(&mut binding);
        log.bindings[0] = binding.sign(&here.owner);
        log
    };
    check_refused(
        &here,
        &with(&|b| b.labels = labels("dmz")),
        "may not bind the labels",
    );
    check_refused(
        &here,
        &with(&|b| b.vnics[0].segment = Segment(2)),
        "in segment 2",
    );
    check_refused(
        &here,
        &with(&|b| b.vnics[0].vnic = VnicId(2)),
        "vnic 2 is bound to",
    );
    check_refused(
        &here,
        &with(&|b| b.vnics[0].vnic = VnicId(0)),
        "a number above 0",
    );
    check_refused(
        &here,
        &with(&|b| b.deployment = "other".parse().expect("valid")),
        "deployment other",
    );
    check_refused(
        &here,
        &with(&|b| b.hosts = vec![host("b")]),
        "which may not run there",
    );
    check_refused(
        &here,
        &with(&|b| b.retired = true),
        "which no binding names",
    );
    let mut foreign = good(&here);
    foreign.bindings[0] = here.binding("db", "cde", 1).sign(&here.stranger);
    check_refused(
        &here,
        &foreign,
        "not signed by a key that the release delegates to",
    );
    let mut third = good(&here);
    third
        .bindings
        .push(here.binding("extra", "corp", 3).sign(&here.owner));
    check_refused(&here, &third, "has bound 3 guests, delegated are 2");
    let mut twice = good(&here);
    twice
        .bindings
        .push(here.binding("db", "cde", 3).sign(&here.owner));
    check_refused(&here, &twice, "bound twice");
}

#[test]
fn addresses_need_the_hosting_agent_and_the_delegated_prefix() {
    let here = Installation::new();
    let with = |envelope| BindingLog {
        attestations: vec![envelope],
        ..good(&here)
    };
    let outside = here.attestation("db", 1, "10.2.0.10");
    check_refused(
        &here,
        &with(outside.sign(&here.agent_a)),
        "outside the delegated prefixes",
    );
    let other = here.attestation("db", 1, "10.1.0.10");
    check_refused(
        &here,
        &with(other.sign(&here.agent_b)),
        "not signed by the agent of a",
    );
    check_refused(
        &here,
        &with(other.sign(&here.owner)),
        "not signed by an agent of the roster",
    );
    let unknown = here.attestation("db", 9, "10.1.0.10");
    check_refused(
        &here,
        &with(unknown.sign(&here.agent_a)),
        "vnic 9, which db has not",
    );
    let mut stolen = good(&here);
    stolen
        .attestations
        .push(here.attestation("corp", 2, "10.1.0.10").sign(&here.agent_a));
    check_refused(&here, &stolen, "10.1.0.10 is claimed by");
}

#[test]
fn an_older_log_is_refused() {
    let here = Installation::new();
    let error = binding::verify(&good(&here), &verified(&here), Epoch(3)).expect_err("older");
    assert!(error.to_string().contains("epoch 2, but 3"), "{error}");
}

/// What an agent that has loaded `known` says of a log.
#[track_caller]
fn check_since(here: &Installation, (known, log): (&BindingLog, &BindingLog), expected: &str) {
    let known = binding::verify(known, &verified(here), Epoch(0)).expect("accepted");
    let said = binding::verify_since(log, &verified(here), &known)
        .map_or_else(|error| error.to_string(), |_| "accepted".into());
    assert!(said.contains(expected), "{said}");
}

#[test]
fn no_guest_goes_back_behind_a_newer_binding_of_another() {
    let here = Installation::new();
    let old = good(&here);
    let mut retagged = here.binding("db", "corp", 1);
    retagged.epoch = Epoch(3);
    let mut newer = old.clone();
    newer.bindings[0] = retagged.sign(&here.owner);
    check_since(&here, (&old, &old), "accepted");
    check_since(&here, (&old, &newer), "accepted");

    // Corp moves on to epoch 4, and hides that db is shown as it was before.
    let mut corp = here.binding("corp", "corp", 2);
    corp.epoch = Epoch(4);
    let mut replayed = old.clone();
    replayed.bindings[1] = corp.sign(&here.owner);
    check_since(
        &here,
        (&newer, &replayed),
        "guest db has epoch 1, but its epoch 3 was loaded",
    );
    let mut without = replayed.clone();
    without.bindings.remove(0);
    without.attestations.clear();
    check_since(&here, (&newer, &without), "guest db is missing");
    let mut twin = old.clone();
    twin.bindings[0] = here.binding("db", "corp", 1).sign(&here.owner);
    check_since(
        &here,
        (&old, &twin),
        "guest db has a second binding with epoch 1",
    );
}

#[test]
fn addresses_do_not_go_back_while_their_binding_holds() {
    let here = Installation::new();
    let old = good(&here);
    let mut moved = here.attestation("db", 1, "10.1.0.11");
    moved.sequence = 2;
    let newer = BindingLog {
        attestations: vec![moved.sign(&here.agent_a)],
        ..good(&here)
    };
    let none = BindingLog {
        attestations: Vec::new(),
        ..good(&here)
    };
    let refused = "the addresses of db on vnic 1 are older than number 2";
    check_since(&here, (&old, &newer), "accepted");
    check_since(&here, (&newer, &old), refused);
    check_since(&here, (&newer, &none), refused);
    // Where the guest may not run any more, what was attested there does not count.
    let mut elsewhere = here.binding("db", "cde", 1);
    elsewhere.epoch = Epoch(3);
    elsewhere.hosts = vec![host("b")];
    let mut confined = none.clone();
    confined.bindings[0] = elsewhere.sign(&here.owner);
    check_since(&here, (&newer, &confined), "accepted");
}

#[test]
fn the_plan_has_each_guest_its_link_local_address_and_the_sets_of_its_segment() {
    let here = Installation::new();
    let release = verified(&here);
    let bindings = binding::verify(&good(&here), &release, Epoch(0)).expect("accepted");
    let tables = host_tables(&release, &bindings, &host("a"), today()).expect("planned");
    let rows: Vec<_> = tables
        .addresses
        .iter()
        .map(|entry| (entry.prefix.to_string(), entry.identity, entry.vnic))
        .collect();
    // The guest has 10.1.0.10, so the set that names the same address no longer does.
    let expected = [
        ("10.1.0.10/32".to_owned(), DB, Some(VnicId(1))),
        ("10.9.0.0/16".to_owned(), SET, None),
        ("fe80::5054:ff:fe00:1/128".to_owned(), DB, Some(VnicId(1))),
        ("fe80::5054:ff:fe00:2/128".to_owned(), CORP, Some(VnicId(2))),
    ];
    assert_eq!(rows, expected);
    assert_eq!(tables.decisions.len(), 2);
}

#[test]
fn a_guest_in_quarantine_talks_with_nobody_and_what_was_established_is_judged_anew() {
    let here = Installation::new();
    let release = verified(&here);
    let bindings = binding::verify(&good(&here), &release, Epoch(0)).expect("accepted");
    let plan = |bindings: &Bindings| {
        host_tables(&release, bindings, &host("a"), today()).expect("planned")
    };
    let before = plan(&bindings);
    let guests: Vec<_> = bindings.guests().map(|one| one.guest.clone()).collect();
    let first = guests.first().expect("a guest").clone();
    let quarantined = bindings.with_quarantine([first]);
    let now = plan(&quarantined);
    assert_eq!(before.epoch, now.epoch);
    for (old, new) in before.addresses.iter().zip(&now.addresses) {
        assert_eq!((old.prefix, old.vnic), (new.prefix, new.vnic));
        let cut_off = new.identity == IdentityId::ISOLATED;
        assert_eq!(cut_off, old.identity != new.identity, "{new:?}");
        assert_eq!(cut_off, old.epoch != new.epoch, "{new:?}");
    }
    let of_isolated = |tables: &HostTables| {
        let peers = tables.decisions.iter().map(|row| row.peer);
        peers.filter(|peer| *peer == IdentityId::ISOLATED).count()
    };
    assert_eq!(of_isolated(&before), 0);
    assert!(of_isolated(&now) > 0);
    // All hosts of one release say the same of a class, whoever is cut off for now.
    assert_eq!(class_digest(&before, DB), class_digest(&now, DB));
    assert_eq!(plan(&quarantined.with_quarantine([])), before);
}

#[test]
fn what_has_a_last_day_ends_with_it_in_the_plan() {
    let here = Installation::new();
    let (mut draft, last) = (here.release(1), today());
    // At the end that begins a rule in observe mode would deny.
    let observed = RuleInfo {
        at: At::Egress,
        mode: Mode::Observe,
        ..rule(6, Action::Deny)
    };
    let ends = RuleInfo {
        expires: Some(last),
        ..rule(5, Action::Allow)
    };
    draft.policy.rules = vec![ends, observed];
    let first = LineRow {
        stage: 0,
        ..line(6)
    };
    draft.policy.lines = vec![first, line(5)];
    draft.policy.observed = vec![ObserveRow {
        identity: DB,
        owner: "db@example.com".into(),
        justification: None,
        expires: Some(last),
    }];
    let mut envelope = draft.sign(&here.author);
    envelope.add_signature(&here.approver).expect("another key");
    let release = release::verify(&envelope, &here.trust(), None).expect("accepted");
    let bindings = binding::verify(&good(&here), &release, Epoch(0)).expect("accepted");
    let plan = |day| host_tables(&release, &bindings, &host("a"), day).expect("planned");
    let observed = |tables: &HostTables| {
        let all = tables.addresses.iter();
        all.filter(|entry| entry.observe).count()
    };
    let on_time = plan(last);
    assert_eq!((on_time.decisions.len(), observed(&on_time)), (2, 2));
    let late = plan(Date::new(2026, 11, 25).expect("a day"));
    // What rules in observe mode would say of it stays, under the default deny.
    let rows = late.decisions.iter();
    let rows: Vec<_> = rows
        .map(|row| (row.verdict, row.rule, row.would.map(|would| would.rule)))
        .collect();
    let denied = |would| (Verdict::Deny, RuleId::DEFAULT, would);
    assert_eq!((rows, observed(&late)), (vec![denied(Some(RuleId(6)))], 0));
    assert_ne!(on_time.digest(), late.digest());
}

#[test]
fn a_window_of_hours_opens_and_closes_in_the_plan_and_a_doubted_clock_opens_none() {
    let here = Installation::new();
    let mut draft = here.release(1);
    let during = Some("mon-fri 08-18".parse().expect("a window"));
    draft.policy.rules = vec![RuleInfo {
        during,
        ..rule(5, Action::Allow)
    }];
    draft.policy.lines = vec![line(5)];
    let mut envelope = draft.sign(&here.author);
    envelope.add_signature(&here.approver).expect("another key");
    let release = release::verify(&envelope, &here.trust(), None).expect("accepted");
    let bindings = binding::verify(&good(&here), &release, Epoch(0)).expect("accepted");
    let allows = |now: Moment| {
        let tables = host_tables(&release, &bindings, &host("a"), now).expect("planned");
        let mut rows = tables.decisions.iter();
        rows.any(|row| row.verdict == Verdict::Allow)
    };
    // A Tuesday.
    let at = |hour| Moment {
        date: today(),
        hour: Hour::At(hour),
    };
    let open = (0..24).filter(|hour| allows(at(*hour)));
    assert_eq!(open.collect::<Vec<_>>(), (8..18).collect::<Vec<_>>());
    assert!(!allows(at(12).doubted()));
    assert!(allows(today().into()));
}

#[test]
fn an_isolated_guest_and_its_shared_addresses_talk_with_nobody() {
    let here = Installation::new();
    let release = verified(&here);
    let isolation = |owner: &str| Isolation {
        owner: owner.into(),
        justification: "INC-4711".into(),
        expires: today(),
    };
    let log = |owner: &str, more: &[&str]| {
        let mut log = linked(&here, shared(4), more);
        let mut binding = here.binding("db", "cde", 1);
        binding.vnics[0].link = shared(4);
        binding.isolated = Some(isolation(owner));
        log.bindings = vec![binding.sign(&here.owner)];
        log
    };
    check_refused(
        &here,
        &log(" ", &[]),
        "the isolation of guest db needs an owner",
    );
    let mut log = log("soc@example.com", &["shared:4:10.1.0.50"]);
    let mut second = here.binding("db2", "cde", 2);
    second.vnics[0].link = shared(4);
    let mut attestation = here.attestation("db2", 2, "10.1.0.11");
    attestation.more = vec!["shared:4:10.1.0.50".parse().expect("an address")];
    log.attestations.push(attestation.sign(&here.agent_a));
    log.bindings.push(second.sign(&here.owner));
    let bindings = binding::verify(&log, &release, Epoch(0)).expect("accepted");
    let plan = |day| host_tables(&release, &bindings, &host("a"), day).expect("planned");
    let cut = |tables: &HostTables| {
        let rows = tables.addresses.iter();
        let rows = rows.filter(|row| row.identity == IdentityId::ISOLATED);
        rows.map(|row| row.prefix.to_string()).collect::<Vec<_>>()
    };
    let now = plan(today());
    let expected = ["10.1.0.10/32", "10.1.0.50/32", "fe80::5054:ff:fe00:1/128"];
    assert_eq!(cut(&now), expected);
    let of_isolated: Vec<_> = now
        .decisions
        .iter()
        .filter(|row| row.peer == IdentityId::ISOLATED)
        .map(|row| (row.direction, row.atom, row.verdict))
        .collect();
    let denied = |way| (way, AtomId::ANY, Verdict::Deny);
    assert_eq!(
        of_isolated,
        [denied(Direction::Egress), denied(Direction::Ingress)]
    );
    assert!(
        now.decisions
            .iter()
            .all(|row| row.local != IdentityId::ISOLATED)
    );
    let late = plan(Date::new(2026, 11, 25).expect("a day"));
    assert!(cut(&late).is_empty());
}

#[test]
fn a_host_outside_the_roster_has_no_plan() {
    let here = Installation::new();
    let release = verified(&here);
    let bindings = binding::verify(&good(&here), &release, Epoch(0)).expect("accepted");
    let error = host_tables(&release, &bindings, &host("c"), today()).expect_err("unknown");
    assert!(matches!(error, PlanError::UnknownHost { .. }));
}

/// A binding of the database with this link, and the attestation of its other addresses.
fn linked(here: &Installation, link: LinkBinding, more: &[&str]) -> BindingLog {
    let mut binding = here.binding("db", "cde", 1);
    binding.vnics[0].link = link;
    let mut attestation = here.attestation("db", 1, "10.1.0.10");
    let parse = |text: &&str| text.parse().expect("an address");
    attestation.more = more.iter().map(parse).collect();
    BindingLog {
        bindings: vec![binding.sign(&here.owner)],
        attestations: vec![attestation.sign(&here.agent_a)],
    }
}

fn shared(group: u32) -> LinkBinding {
    LinkBinding {
        shared: vec![SharedId(group)],
        ..LinkBinding::default()
    }
}

#[test]
fn addresses_of_another_kind_need_their_place_in_the_binding() {
    let here = Installation::new();
    let plain = LinkBinding::default;
    let cases = [
        (plain(), "shared:4:10.1.0.50", "does not list group 4"),
        (shared(5), "shared:4:10.1.0.50", "does not list group 4"),
        (plain(), "vlan:10:10.1.0.50", "does not list VLAN 10"),
        (
            plain(),
            "routed:10.2.0.0/16",
            "outside the delegated prefixes",
        ),
        (plain(), "routed:10.1.0.1/24", "bits beyond the prefix"),
    ];
    for (link, more, expected) in cases {
        check_refused(&here, &linked(&here, link, &[more]), expected);
    }
    let foreign = LinkBinding {
        vlans: vec![Vlan {
            id: VlanId::new(10).expect("a VLAN"),
            segment: Segment(99),
        }],
        ..plain()
    };
    check_refused(&here, &linked(&here, foreign, &[]), "in segment 99");
    let group = LinkBinding {
        macs: vec![Mac([1, 0, 0x5e, 0, 0, 1])],
        ..plain()
    };
    check_refused(&here, &linked(&here, group, &[]), "a group of stations");
}

#[test]
fn a_shared_address_is_for_guests_of_one_class_and_in_the_plan_once() {
    let here = Installation::new();
    let mut log = linked(
        &here,
        shared(4),
        &["shared:4:10.1.0.50", "routed:10.1.8.0/24"],
    );
    let mut second = here.binding("db2", "cde", 2);
    second.vnics[0].link = shared(4);
    let mut attestation = here.attestation("db2", 2, "10.1.0.11");
    attestation.more = vec!["shared:4:10.1.0.50".parse().expect("an address")];
    log.attestations.push(attestation.sign(&here.agent_a));
    let alike = BindingLog {
        bindings: [log.bindings.clone(), vec![second.sign(&here.owner)]].concat(),
        ..log.clone()
    };
    let release = verified(&here);
    let bindings = binding::verify(&alike, &release, Epoch(0)).expect("a group of one class");
    let tables = host_tables(&release, &bindings, &host("a"), today()).expect("a plan");
    let kinds: Vec<AddressKind> = tables.addresses.iter().map(|entry| entry.kind).collect();
    let count = |wanted| kinds.iter().filter(|kind| **kind == wanted).count();
    assert_eq!(count(AddressKind::Shared(SharedId(4))), 1, "{tables:?}");
    assert_eq!(count(AddressKind::Routed), 1, "{tables:?}");
    let mut other = here.binding("db2", "corp", 2);
    other.vnics[0].link = shared(4);
    let unlike = BindingLog {
        bindings: [log.bindings.clone(), vec![other.sign(&here.owner)]].concat(),
        ..log
    };
    check_refused(&here, &unlike, "10.1.0.50 is claimed by");
}
