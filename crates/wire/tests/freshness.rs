//! What witnesses say of the newest release, and whom agents believe about it.

mod support;

use lictor_types::{Digest, Generation};
use lictor_wire::freshness::LIFE_MS_MAX;
use lictor_wire::release::verify;
use lictor_wire::{Envelope, Freshness, SigningKey, Trust, Witnesses};
use support::{Installation, key};

struct World {
    installation: Installation,
    witnesses: [SigningKey; 2],
    trust: Trust,
}

/// Two witnesses, of whom as many must have signed.
fn world(required: u32) -> World {
    let installation = Installation::new();
    let witnesses = [key("north"), key("south")];
    let mut trust = installation.trust();
    trust.freshness = Some(Witnesses {
        keys: witnesses.iter().map(SigningKey::verify_key).collect(),
        required,
    });
    World {
        installation,
        witnesses,
        trust,
    }
}

impl World {
    /// That a release is the newest from 1,000 to 2,000 ms.
    fn said(&self, generation: u64) -> Freshness {
        Freshness::of(&self.installation.release(generation), 1_000, 1_000)
    }

    fn check(&self, envelope: &Envelope, expected: Result<(), &str>) {
        let found = Freshness::verify(envelope, &self.trust).map(drop);
        match expected {
            Ok(()) => assert_eq!(found, Ok(())),
            Err(part) => {
                let told = found.expect_err(part).to_string();
                assert!(told.contains(part), "{told}");
            }
        }
    }
}

#[test]
fn a_statement_counts_if_enough_witnesses_have_signed_it() {
    let one = world(1);
    let [north, south] = &one.witnesses;
    let said = one.said(3);
    one.check(&said.sign(&[north]), Ok(()));
    one.check(&said.sign(&[south]), Ok(()));
    one.check(
        &said.sign(&[]),
        Err("0 valid signature(s), expected 1 of north, south"),
    );
    one.check(&said.sign(&[&one.installation.manager]), Err("0 valid"));
    let two = world(2);
    let [north, south] = &two.witnesses;
    let said = two.said(3);
    two.check(
        &said.sign(&[north]),
        Err("1 valid signature(s), expected 2"),
    );
    two.check(&said.sign(&[north, south]), Ok(()));
    let mut by_degrees = said.sign(&[north]);
    by_degrees.add_signature(south).expect("another key");
    two.check(&by_degrees, Ok(()));
}

#[test]
fn where_the_trust_file_names_no_witness_no_statement_counts() {
    let mut world = world(1);
    world.trust.freshness = None;
    let said = world.said(3).sign(&[&world.witnesses[0]]);
    world.check(
        &said,
        Err("names nobody who says which release is the newest"),
    );
}

#[test]
fn a_statement_of_another_kind_installation_or_life_is_refused() {
    let world = world(1);
    let north = &world.witnesses[0];
    let release = world.installation.release(3).sign(north);
    world.check(&release, Err("0 valid"));
    let mut elsewhere = world.said(3);
    elsewhere.deployment = "other".parse().expect("a valid name");
    world.check(
        &elsewhere.sign(&[north]),
        Err("for deployment other; expected one for test"),
    );
    let mut long = world.said(3);
    long.expires_ms = long.issued_ms + LIFE_MS_MAX;
    world.check(&long.sign(&[north]), Ok(()));
    long.expires_ms += 1;
    world.check(&long.sign(&[north]), Err("expected at most 604800000 ms"));
    let mut backwards = world.said(3);
    backwards.expires_ms = backwards.issued_ms - 1;
    world.check(&backwards.sign(&[north]), Err("good from 1000 to 999 ms"));
    let mut spaced = world.said(3).canonical_bytes();
    spaced.push(b' ');
    let spaced = Envelope::sign(lictor_wire::freshness::PAYLOAD_TYPE, &spaced, &[north]);
    world.check(&spaced, Err("not in canonical form"));
}

#[test]
fn a_release_is_stale_once_a_newer_one_is_named_or_nobody_says_any_more_that_it_is_the_newest() {
    let world = world(1);
    let decides = verify(&world.installation.signed(3), &world.trust, None).expect("is signed");
    let check = |said: &Freshness, now_ms, expected: Option<&str>| {
        let found = said.against(&decides, now_ms);
        match expected {
            None => assert_eq!(found, None),
            Some(part) => assert!(
                found.as_deref().is_some_and(|one| one.contains(part)),
                "{found:?}"
            ),
        }
    };
    check(&world.said(3), 2_000, None);
    check(
        &world.said(3),
        2_001,
        Some("no witness has said since 2000 ms"),
    );
    // It was written before the release that decides.
    check(&world.said(2), 2_000, None);
    check(&world.said(2), 2_001, Some("no witness has said since"));
    check(
        &world.said(4),
        1_500,
        Some("release 4 is the newest, and 3 decides"),
    );
    let mut other = world.said(3);
    other.digest = Digest([9; 32]);
    check(&other, 1_500, Some("decides"));
}

#[test]
fn what_a_witness_named_is_the_least_that_may_be_taken() {
    let world = world(1);
    let said = world.said(3);
    assert_eq!(said.allows(Generation(4), Digest([9; 32])), Ok(()));
    assert_eq!(said.allows(Generation(3), said.digest), Ok(()));
    let told = |generation, digest| {
        said.allows(generation, digest)
            .expect_err("refused")
            .to_string()
    };
    assert!(told(Generation(2), said.digest).contains("already enforced"));
    assert!(told(Generation(3), Digest([9; 32])).contains("was already seen as"));
}
