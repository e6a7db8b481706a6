//! Orders to evacuate a guest: who must have signed, and for how long they are good.

mod support;

use lictor_wire::evacuation::{LIFE_MS_MAX, PAYLOAD_TYPE};
use lictor_wire::{Envelope, Evacuation, EvacuationRefused, SigningKey};
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

fn signed(order: &Evacuation, keys: &[&SigningKey]) -> Envelope {
    Envelope::sign(PAYLOAD_TYPE, &order.canonical_bytes(), keys)
}

#[test]
fn an_order_counts_with_an_author_and_somebody_else_who_approves() {
    let one = Installation::new();
    let check = |keys: &[&SigningKey], expected: Result<usize, &str>| {
        let found = Evacuation::verify(&signed(&order(&one), keys), &one.trust(), NOW_MS);
        let found = found.map(|ordered| ordered.signers.len());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(EvacuationRefused::NotSigned { found, .. }), Err(expected)) => {
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
        matches!(found, Err(EvacuationRefused::Elsewhere { .. })),
        "{found:?}"
    );
    let mut bytes = order(&one).canonical_bytes();
    bytes.push(b' ');
    let spaced = Envelope::sign(PAYLOAD_TYPE, &bytes, &keys);
    let other = Envelope::sign("application/other", &order(&one).canonical_bytes(), &keys);
    for (envelope, part) in [(spaced, "canonical"), (other, "application/other")] {
        let error = Evacuation::unverified(&envelope).expect_err("no order");
        assert!(error.to_string().contains(part), "{error}");
    }
}
