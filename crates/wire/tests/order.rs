//! Orders about one guest: who must have signed, and for how long they are good.

mod support;

use lictor_policy::Cause;
use lictor_wire::order::LIFE_MS_MAX;
use lictor_wire::{Envelope, Evacuation, Order, OrderRefused, Override, SigningKey, overriding};
use std::collections::BTreeSet;
use support::{Installation, guest, host};

const NOW_MS: u64 = 1_000_000_000;

fn order(installation: &Installation) -> Evacuation {
    Evacuation {
        deployment: installation.trust().deployment,
        guest: guest("db"),
        from: host("a"),
        to: host("b"),
        justification: "its agent is dead".into(),
        issued_ms: NOW_MS,
        expires_ms: NOW_MS + LIFE_MS_MAX,
    }
}

fn overriding(installation: &Installation, causes: &[Cause]) -> Override {
    Override {
        deployment: installation.trust().deployment,
        guest: guest("db"),
        to: host("b"),
        causes: causes.iter().copied().collect::<BTreeSet<_>>(),
        justification: "no other host is left".into(),
        issued_ms: NOW_MS,
        expires_ms: NOW_MS + LIFE_MS_MAX,
    }
}

fn signed<O: Order>(order: &O, keys: &[&SigningKey]) -> Envelope {
    Envelope::sign(O::PAYLOAD_TYPE, &order.canonical_bytes(), keys)
}

#[test]
fn an_order_counts_with_an_author_and_somebody_else_who_approves() {
    let one = Installation::new();
    let check = |keys: &[&SigningKey], expected: Result<usize, &str>| {
        let found = Evacuation::verify(&signed(&order(&one), keys), &one.trust(), NOW_MS);
        let found = found.map(|ordered| ordered.signers.len());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(OrderRefused::NotSigned { found, .. }), Err(expected)) => {
                assert_eq!(found, expected);
            }
            (found, expected) => panic!("{found:?}; expected {expected:?}"),
        }
    };
    check(&[&one.author, &one.approver], Ok(2));
    check(&[&one.approver, &one.author], Ok(2));
    check(&[], Err("none that counts"));
    check(&[&one.stranger, &one.manager], Err("none that counts"));
    check(&[&one.author], Err("author"));
    check(&[&one.approver], Err("approver"));
}

#[test]
fn an_order_is_good_until_its_end_and_for_no_longer_than_one_may_be() {
    let one = Installation::new();
    let check = |change: &dyn Fn(&mut Evacuation), now_ms, good: bool| {
        let mut order = order(&one);
        change(&mut order);
        let envelope = signed(&order, &[&one.author, &one.approver]);
        let found = Evacuation::verify(&envelope, &one.trust(), now_ms);
        assert_eq!(found.is_ok(), good, "{found:?}");
        // Whoever was to hear of it hears of it later, too.
        assert!(Evacuation::signed(&envelope, &one.trust()).is_ok());
    };
    check(&|_| {}, NOW_MS + LIFE_MS_MAX, true);
    check(&|_| {}, NOW_MS + LIFE_MS_MAX + 1, false);
    check(&|order| order.expires_ms += 1, NOW_MS, false);
}

#[test]
fn an_order_of_another_installation_or_of_other_bytes_does_not_count() {
    let one = Installation::new();
    let keys = [&one.author, &one.approver];
    let mut elsewhere = order(&one);
    elsewhere.deployment = lictor_types::DeploymentId::new("elsewhere").expect("a valid name");
    let found = Evacuation::verify(&signed(&elsewhere, &keys), &one.trust(), NOW_MS);
    assert!(
        matches!(found, Err(OrderRefused::Elsewhere { .. })),
        "{found:?}"
    );
    let mut bytes = order(&one).canonical_bytes();
    bytes.push(b' ');
    let spaced = Envelope::sign(Evacuation::PAYLOAD_TYPE, &bytes, &keys);
    let other = Envelope::sign("application/other", &order(&one).canonical_bytes(), &keys);
    for (envelope, part) in [(spaced, "canonical"), (other, "application/other")] {
        let error = Evacuation::unverified(&envelope).expect_err("no order");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn an_override_names_causes_that_may_be_overridden() {
    let one = Installation::new();
    let check = |causes: &[Cause], expected: Result<(), &str>| {
        let envelope = signed(&overriding(&one, causes), &[&one.author, &one.approver]);
        match (Override::verify(&envelope, &one.trust(), NOW_MS), expected) {
            (Ok(ordered), Ok(())) => {
                let told = ordered.told();
                assert_eq!(told.causes.len(), causes.len());
                assert_eq!(told.signers, ["author", "approver"]);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?}; expected {expected:?}"),
        }
    };
    check(&overriding::CAUSES, Ok(()));
    check(&[Cause::IdsMissing], Ok(()));
    check(
        &[],
        Err("it names no cause; expected some of release-stale"),
    );
    for cause in Cause::ALL
        .iter()
        .filter(|one| !overriding::CAUSES.contains(one))
    {
        let words = format!("{cause} cannot be overridden");
        check(&[*cause, Cause::IdsMissing], Err(&words));
    }
}

#[test]
fn an_order_of_one_kind_is_none_of_another() {
    let one = Installation::new();
    let keys = [&one.author, &one.approver];
    let evacuation = signed(&order(&one), &keys);
    let found = Override::verify(&evacuation, &one.trust(), NOW_MS);
    assert!(
        matches!(found, Err(OrderRefused::NotSigned { .. })),
        "{found:?}"
    );
    let found = Override::unverified(&evacuation);
    assert!(
        matches!(found, Err(OrderRefused::Malformed { .. })),
        "{found:?}"
    );
}
