//! Which release is the newest, by the word of witnesses, on a real kernel.

use super::*;
use lictor_wire::{Freshness, Witnesses};

const HOUR_MS: u64 = 60 * 60 * 1_000;

/// The ground's trust file names a witness from now on.
pub(super) fn witness(ground: &Ground) -> SigningKey {
    let witness = key("witness");
    let state = StateDir::new(&ground.path("state"));
    let mut trust = state.trust().expect("readable");
    trust.freshness = Some(Witnesses {
        keys: vec![witness.verify_key()],
        required: 1,
    });
    state.write_json(state::TRUST, &trust).expect("written");
    witness
}

/// A statement for an hour of what an envelope holds.
pub(super) fn said(envelope: &Envelope, by: &SigningKey, issued_ms: u64) -> Envelope {
    let release = envelope.unverified_payload().expect("readable");
    let release: Release = serde_json::from_slice(&release).expect("a release");
    Freshness::of(&release, issued_ms, HOUR_MS).sign(&[by])
}

fn stale(host: &Host, now_ms: u64) -> String {
    host.stale(now_ms).unwrap_or_default()
}

#[test]
fn a_withheld_release_is_noticed_by_what_a_witness_says_or_no_longer_says() {
    on_ground(|ground| {
        let by = witness(ground);
        let mut host = ground.open_loaded();
        assert!(stale(&host, 10).contains("no witness has said yet that release 1"));
        host.witness(&said(&ground.approved(1), &by, 10))
            .expect("counts");
        assert_eq!(stale(&host, HOUR_MS + 10), "");
        assert!(stale(&host, HOUR_MS + 11).contains("no witness has said since"));
        // Another start knows what was said.
        drop(host);
        let mut host = ground.open();
        assert_eq!(stale(&host, HOUR_MS + 10), "");
        let forged = said(&ground.approved(2), &ground.author, 20);
        let refused = host.witness(&forged).expect_err("no witness signed it");
        assert!(
            refused.to_string().contains("0 valid signature(s)"),
            "{refused}"
        );
        host.witness(&said(&ground.approved(2), &by, 20))
            .expect("counts");
        // What the manager says again of an earlier time changes nothing.
        host.witness(&said(&ground.approved(1), &by, 10))
            .expect("counts");
        let told = "a witness says that release 2 is the newest, and 1 decides";
        assert_eq!(stale(&host, 30), told);
        // The release that decides goes on deciding, after another start too.
        drop(host);
        let mut host = ground.open();
        assert_eq!(host.generation(), Generation(1));
        assert_eq!(stale(&host, 30), told);
        host.offer(&ground.approved(2), &ground.bindings(), 40)
            .expect("works");
        assert_eq!(stale(&host, 50), "");
    });
}

#[test]
fn a_host_that_forgot_learns_from_a_witness_which_release_is_too_old() {
    on_ground(|ground| {
        let by = witness(ground);
        let mut host = ground.open();
        host.witness(&said(&ground.approved(3), &by, 10))
            .expect("counts");
        let offered = host
            .offer(&ground.approved(2), &ground.bindings(), 20)
            .expect("works");
        assert!(matches!(offered, Offered::Refused(reason) if reason.contains("generation 2")));
        assert_eq!(host.generation(), Generation(0));
        let offered = host
            .offer(&ground.approved(3), &ground.bindings(), 30)
            .expect("works");
        assert_eq!(offered, Offered::Loaded);
    });
}
