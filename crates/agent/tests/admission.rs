//! What speaks against a move: every reason at once, as data.

use lictor_agent::custody::EPOCH_JUMP_MAX;
use lictor_agent::moves::admission::{Question, Standing, TICKET_LIFE_MS, reasons};
use lictor_evidence::{ControlFact, KeyName};
use lictor_policy::{Cause, CompileInput, Date, Labels, compile, parse};
use lictor_types::{
    DeploymentId, Epoch, Generation, GuestId, HostId, Segment, VNICS_PER_HOST_MAX, VnicId,
};
use lictor_wire::{
    Binding, Refusal, Release, RosterHost, SigningKey, Ticket, Trust, VerifiedRelease, VnicBinding,
    peer, release,
};
use std::collections::BTreeSet;

const POLICY: &str = "policy \"test\" version 1\n\
    label app : string required\n\
    tier app unordered allow-only owner \"ops@test\" {\n\
      allow in { from any to app:db service any justification \"test\" expires 2030-01-01 }\n\
    }\n\
    require app:db controls firewall ids\n";

fn key(name: &str) -> SigningKey {
    SigningKey::generate(KeyName::new(name).expect("valid"), &mut rand::rngs::OsRng)
}

fn host(name: &str) -> HostId {
    HostId::new(name).expect("valid")
}

fn labels() -> Labels {
    Labels::from([("app".to_owned(), "db".to_owned())])
}

fn verified(generation: u64) -> VerifiedRelease {
    let (author, approver) = (key("author"), key("approver"));
    let (policy, diagnostics) = parse("test.lictor", POLICY.as_bytes());
    let policy = policy.unwrap_or_else(|| panic!("{diagnostics:?}"));
    let input = CompileInput {
        label_sets: vec![labels()],
        date: Date::new(2026, 11, 24).expect("a day"),
    };
    let deployment = DeploymentId::new("test").expect("valid");
    let roster = ["a", "b"].map(|name| RosterHost {
        host: host(name),
        cluster: "main".into(),
        key: key(name).verify_key(),
        peer: "127.0.0.1:7443".parse().expect("valid"),
    });
    let release = Release {
        format: release::FORMAT,
        deployment: deployment.clone(),
        generation: Generation(generation),
        created_ms: 1,
        policy: compile(&policy, &input).expect("compiles"),
        roster: roster.to_vec(),
        delegations: Vec::new(),
        proved: None,
    };
    let mut envelope = release.sign(&author);
    envelope.add_signature(&approver).expect("another key");
    let trust = Trust {
        deployment,
        authors: vec![author.verify_key()],
        approvers: vec![approver.verify_key()],
        approvals_required: 1,
        manager: author.verify_key(),
        freshness: None,
    };
    release::verify(&envelope, &trust, None).expect("signed by two")
}

/// A move that nothing speaks against, before a test changes it.
struct Case {
    release: VerifiedRelease,
    ticket: Ticket,
    format: u32,
    binding: Option<Binding>,
    wanted: Epoch,
    controls: Vec<ControlFact>,
    waived: Vec<&'static str>,
    overridden: BTreeSet<Cause>,
    chosen: Vec<Refusal>,
    vnics: usize,
    sessions_left: u64,
    custody: u64,
    held: bool,
    busy: Option<&'static str>,
    now_ms: u64,
}

fn control(name: &str, healthy: bool) -> ControlFact {
    ControlFact {
        control: name.into(),
        version: "test 1".into(),
        healthy,
    }
}

fn good() -> Case {
    let release = verified(3);
    let guest = GuestId::new("db").expect("valid");
    let deployment = DeploymentId::new("test").expect("valid");
    Case {
        ticket: Ticket {
            deployment: deployment.clone(),
            guest: guest.clone(),
            source: host("a"),
            target: host("b"),
            custody: 8,
            nonce: "00".into(),
            asked_by: "a test".into(),
            issued_ms: 1,
            deadline_ms: 1_000 + 2 * TICKET_LIFE_MS,
            generation: Generation(3),
            release: release.digest(),
            overriding: None,
        },
        release,
        format: peer::FORMAT,
        binding: Some(Binding {
            deployment,
            epoch: Epoch(5),
            guest,
            labels: labels(),
            vnics: vec![VnicBinding {
                vnic: VnicId(7),
                name: "tap-db".parse().expect("valid"),
                mac: "52:54:00:00:00:07".parse().expect("valid"),
                segment: Segment(1),
                sessions_max: 1_024,
                link: lictor_wire::LinkBinding::default(),
            }],
            hosts: vec![host("a"), host("b")],
            retired: false,
            isolated: None,
        }),
        wanted: Epoch(5),
        controls: vec![control("firewall", true), control("ids", true)],
        waived: Vec::new(),
        overridden: BTreeSet::new(),
        chosen: Vec::new(),
        vnics: VNICS_PER_HOST_MAX as usize - 1,
        sessions_left: 1_024,
        custody: 7,
        held: false,
        busy: None,
        now_ms: 1_000,
    }
}

fn check(change: impl FnOnce(&mut Case), expected: &[&str]) {
    let mut case = good();
    change(&mut case);
    let own = host("b");
    let question = Question {
        ticket: &case.ticket,
        format: case.format,
        binding: case.wanted,
    };
    let standing = Standing {
        host: &own,
        release: &case.release,
        binding: case.binding.as_ref(),
        controls: &case.controls,
        waived: &case.waived,
        overridden: &case.overridden,
        chosen: &case.chosen,
        vnics: case.vnics,
        sessions_left: case.sessions_left,
        custody: case.custody,
        held: case.held,
        busy: case.busy,
        now_ms: case.now_ms,
    };
    let found: Vec<String> = reasons(&question, &standing)
        .iter()
        .map(Refusal::to_string)
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_move_that_nothing_speaks_against_is_admitted_at_the_limit() {
    check(|_| {}, &[]);
}

#[test]
fn trap_10_each_reason_against_a_move_is_found_before_it() {
    check(
        |case| case.format = 9,
        &["the formats differ: the source speaks 9, the target 5 and 4"],
    );
    check(
        |case| case.ticket.target = host("z"),
        &["the target is not in the release's roster"],
    );
    check(
        |case| case.release = verified(4),
        &["the source enforces release 3, the target 4"],
    );
    let custody = "the source has no custody: the ticket is for epoch 8, the target knows of";
    check(|case| case.custody = 8, &[&format!("{custody} 8")]);
    check(|case| case.held = true, &[&format!("{custody} 7")]);
    check(
        |case| case.busy = Some("ticket x from a"),
        &["another move is under way: ticket x from a"],
    );
    check(
        |case| case.now_ms -= 1,
        &["the formats differ: the ticket is good for more than 600000 ms"],
    );
    let limit = 7 + EPOCH_JUMP_MAX;
    check(|case| case.ticket.custody = limit, &[]);
    let beyond = format!(
        "the source has no custody: epoch {} is beyond belief",
        limit + 1
    );
    check(|case| case.ticket.custody = limit + 1, &[&beyond]);
    let unknown = "the target has no binding of the guest";
    check(|case| case.binding = None, &[unknown]);
    check(|case| case.wanted = Epoch(6), &[unknown]);
    check(
        |case| case.vnics = VNICS_PER_HOST_MAX as usize,
        &["no room: 1 vnics asked for, 0 left of 1024"],
    );
    let missing = "the control ids that the guest requires is not healthy there";
    check(|case| drop(case.controls.pop()), &[missing]);
    check(|case| case.controls[1].healthy = false, &[missing]);
    check(
        |case| case.sessions_left -= 1,
        &[
            "no room: 1024 sessions asked for, 1023 of the host's budget left; lower the guest's \
           quota, or raise `sessions` of the target's agent",
        ],
    );
    let chosen = Refusal::Impaired {
        cause: "manager-unreachable".into(),
        detail: "silent for 70 s; its owner chose no-moves".into(),
    };
    check(
        |case| case.chosen = vec![chosen.clone()],
        &[&chosen.to_string()],
    );
}

#[test]
fn only_the_control_that_its_owner_lets_be_missing_may_be() {
    check(
        |case| {
            case.controls.clear();
            case.waived = vec!["ids"];
        },
        &["the control firewall that the guest requires is not healthy there"],
    );
    check(
        |case| {
            case.controls.pop();
            case.waived = vec!["ids"];
        },
        &[],
    );
}

#[test]
fn an_order_overrides_what_it_names_and_nothing_else() {
    let all = |case: &mut Case| {
        case.release = verified(4);
        case.controls.clear();
        case.sessions_left = 0;
    };
    let left = |causes: &[Cause], expected: &[&str]| {
        check(
            |case| {
                all(case);
                case.overridden = causes.iter().copied().collect();
            },
            expected,
        );
    };
    let differs = "the source enforces release 3, the target 4";
    let full = "no room: 1024 sessions asked for, 0 of the host's budget left; lower the guest's \
                quota, or raise `sessions` of the target's agent";
    let firewall = "the control firewall that the guest requires is not healthy there";
    let ids = "the control ids that the guest requires is not healthy there";
    left(&[], &[differs, full, firewall, ids]);
    left(&[Cause::MonitorMissing], &[differs, full, firewall, ids]);
    left(&[Cause::IdsMissing], &[differs, full, firewall]);
    left(&[Cause::ReleaseStale], &[full, firewall, ids]);
    left(&[Cause::StateFull], &[differs, firewall, ids]);
    let vnics = VNICS_PER_HOST_MAX as usize;
    check(
        |case| {
            case.vnics = vnics;
            case.overridden = Cause::ALL.iter().copied().collect();
        },
        &["no room: 1 vnics asked for, 0 left of 1024"],
    );
}

#[test]
fn a_binding_that_does_not_list_the_target_and_all_else_are_said_at_once() {
    check(
        |case| {
            case.format = 0;
            case.controls.clear();
            let binding = case.binding.as_mut().expect("bound");
            binding.hosts = vec![host("a")];
        },
        &[
            "the formats differ: the source speaks 0, the target 5 and 4",
            "the guest's binding does not list the target",
            "the control firewall that the guest requires is not healthy there",
            "the control ids that the guest requires is not healthy there",
        ],
    );
}
