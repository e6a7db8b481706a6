//! A release counts only with an author's and another person's signature, for this deployment, and
//! never backwards.

mod support;

use lictor_types::{Digest, Generation};
use lictor_wire::release::{self, Floor, PAYLOAD_TYPE};
use lictor_wire::{Envelope, ReleaseRefused};
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
