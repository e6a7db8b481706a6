//! A release counts only with an author's and another person's signature, for this deployment, and
//! never backwards.

mod support;

use lictor_policy::{Date, IntentText};
use lictor_types::{Digest, Generation};
use lictor_wire::gate::{self, EXCEPTION_TYPE};
use lictor_wire::release::{self, Floor, PAYLOAD_TYPE};
use lictor_wire::{Envelope, Exception, Proved, ReleaseRefused, SigningKey};
use support::Installation;

fn refused(here: &Installation, envelope: &Envelope, floor: Option<Floor>) -> ReleaseRefused {
    release::verify(envelope, &here.trust(), floor).expect_err("must be refused")
}

#[test]
fn two_persons_make_a_release() {
    let here = Installation::new();
    let verified = release::verify(&here.signed(3), &here.trust(), None).expect("accepted");
    assert_eq!(verified.release().generation, Generation(3));
    assert_eq!(*verified.author(), here.author.verify_key());
    assert_eq!(verified.approvers(), [here.approver.verify_key()]);
}

#[test]
fn one_signature_is_refused_and_says_whose_is_missing() {
    let here = Installation::new();
    let envelope = here.release(3).sign(&here.author);
    let error = refused(&here, &envelope, None);
    assert!(matches!(
        error,
        ReleaseRefused::NotApproved {
            found: 0,
            needed: 1,
            ..
        }
    ));
    assert!(error.to_string().contains("approver"), "{error}");
}

#[test]
fn an_author_who_is_also_an_approver_does_not_count_twice() {
    // The trust file of these tests lists the author among the approvers.
    let here = Installation::new();
    let envelope = Envelope::sign(
        PAYLOAD_TYPE,
        &here.release(3).canonical_bytes(),
        &[&here.author],
    );
    assert!(matches!(
        refused(&here, &envelope, None),
        ReleaseRefused::NotApproved { .. }
    ));
}

#[test]
fn an_approval_without_an_author_is_refused() {
    let here = Installation::new();
    let mut envelope = here.release(3).sign(&here.approver);
    envelope.add_signature(&here.stranger).expect("another key");
    assert!(matches!(
        refused(&here, &envelope, None),
        ReleaseRefused::NoAuthor { .. }
    ));
}

#[test]
fn another_deployment_is_refused() {
    let here = Installation::new();
    let mut release = here.release(3);
    release.deployment = "elsewhere".parse().expect("valid");
    let mut envelope = release.sign(&here.author);
    envelope.add_signature(&here.approver).expect("another key");
    assert!(matches!(
        refused(&here, &envelope, None),
        ReleaseRefused::WrongDeployment { .. }
    ));
}

#[test]
fn an_older_generation_and_a_second_document_of_one_generation_are_refused() {
    let here = Installation::new();
    let verified = release::verify(&here.signed(3), &here.trust(), None).expect("accepted");
    let floor = Floor {
        generation: Generation(3),
        digest: verified.digest(),
    };
    assert!(release::verify(&here.signed(3), &here.trust(), Some(floor)).is_ok());
    assert!(release::verify(&here.signed(4), &here.trust(), Some(floor)).is_ok());
    let older = refused(&here, &here.signed(2), Some(floor));
    assert!(matches!(older, ReleaseRefused::RolledBack { .. }));
    let other = Floor {
        digest: Digest::of(b"other"),
        ..floor
    };
    let twin = refused(&here, &here.signed(3), Some(other));
    assert!(matches!(twin, ReleaseRefused::Equivocation { .. }));
}

#[test]
fn signed_bytes_that_are_not_canonical_are_refused() {
    let here = Installation::new();
    let mut bytes = here.release(3).canonical_bytes();
    bytes.push(b'\n');
    let envelope = Envelope::sign(PAYLOAD_TYPE, &bytes, &[&here.author, &here.approver]);
    assert!(matches!(
        refused(&here, &envelope, None),
        ReleaseRefused::Malformed { .. }
    ));
}

/// An exception for the intent `far`, as it is signed.
fn exception(here: &Installation, statement: &str, key: &SigningKey) -> Envelope {
    let exception = Exception {
        deployment: here.trust().deployment,
        policy: here.release(3).policy.policy,
        intent: "far".into(),
        statement: statement.into(),
        owner: "net@example.com".into(),
        justification: "RSK-1".into(),
        expires: "2026-12-31".parse().expect("a date"),
    };
    let payload = serde_json::to_vec(&exception).expect("plain");
    Envelope::sign(EXCEPTION_TYPE, &payload, &[key])
}

/// Whether a release with one intent counts on a day: what was held, and what is excepted.
fn check(held: &[&str], excepted: Option<(&str, bool)>, day: &str, expected: Result<(), &str>) {
    let here = Installation::new();
    let mut release = here.release(3);
    let day: Date = day.parse().expect("a date");
    release.policy.date = day;
    release.policy.intents = vec![IntentText {
        name: "far".into(),
        text: "never path from a to b".into(),
    }];
    let signed = excepted.map(|(statement, by_approver)| {
        let key = if by_approver {
            &here.approver
        } else {
            &here.owner
        };
        exception(&here, statement, key)
    });
    release.proved = Some(Proved {
        estate: Digest::of(b"an estate"),
        held: held.iter().map(|name| (*name).to_owned()).collect(),
        excepted: signed.into_iter().collect(),
    });
    let mut envelope = release.sign(&here.author);
    envelope.add_signature(&here.approver).expect("another key");
    let found = release::verify(&envelope, &here.trust(), None);
    match (found, expected) {
        (Ok(_), Ok(())) => {}
        (Err(error @ ReleaseRefused::Unproved { .. }), Err(text)) => {
            assert!(error.to_string().contains(text), "no {text:?} in {error}");
        }
        (found, expected) => panic!("{:?}, expected {expected:?}", found.map(|_| ())),
    }
}

#[test]
fn an_intent_that_nobody_proved_and_no_exception_names_makes_no_release() {
    let (says, day) = ("never path from a to b", "2026-11-28");
    check(&["far"], None, day, Ok(()));
    check(&[], None, day, Err("not proved"));
    check(&["near"], None, day, Err(": far;"));
    check(&[], Some((says, true)), day, Ok(()));
    check(&[], Some((says, true)), "2026-12-31", Ok(()));
    check(
        &[],
        Some((says, true)),
        "2027-01-01",
        Err("it expired after 2026-12-31"),
    );
    check(&[], Some((says, false)), day, Err("no approver"));
    check(
        &[],
        Some(("never path from a to c", true)),
        day,
        Err(": far;"),
    );
    let here = Installation::new();
    let mut release = here.release(3);
    assert!(gate::unproved(&release, &[], release.policy.date).is_empty());
    release.policy.intents = vec![IntentText {
        name: "far".into(),
        text: says.into(),
    }];
    assert_eq!(gate::unproved(&release, &[], release.policy.date), ["far"]);
}
