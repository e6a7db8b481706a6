//! The checker, which shares no code with the prover, accepts every result, and refuses each of
//! them when it is turned round or a part of its certificate is taken away.

mod common;

use common::{Random, estate, parsed, policy_text, today};
use lictor_analysis::Prover;
use lictor_checker::check;
use serde_json::Value;
use std::sync::Arc;

const POLICIES: u64 = 400;

fn document(seed: u64) -> (Value, String) {
    let mut random = Random(seed);
    let text = policy_text(&mut random);
    let estate = Arc::new(estate(&mut random));
    let policy = Arc::new(parsed(&text, &text));
    let mut prover = Prover::new(policy, estate, today()).expect("small");
    let findings = prover.findings();
    let document = prover.certify().expect("known selectors");
    let context = format!("seed {seed}\n{text}\n{findings:#?}");
    (serde_json::to_value(document).expect("plain"), context)
}

fn checked(document: &Value) -> Result<(usize, usize), String> {
    check(&serde_json::to_vec(document).expect("plain"))
}

#[test]
fn every_certificate_is_accepted_and_none_that_says_the_opposite() {
    let (mut turned, mut cut) = (0, 0_u64);
    for seed in 0..POLICIES {
        let (document, context) = document(seed + 9_000_000);
        let result = checked(&document);
        assert!(result.is_ok(), "{result:?}\n{context}\n{document:#}");
        for place in 0..document["certificates"].as_array().map_or(0, Vec::len) {
            let mut other = document.clone();
            let one = &mut other["certificates"][place];
            one["held"] = Value::Bool(one["held"] != true);
            assert!(
                checked(&other).is_err(),
                "turned {place}\n{context}\n{document:#}"
            );
            turned += 1;
            // Somebody is left out of a level, or a session out of a chain.
            let mut other = document.clone();
            let one = &mut other["certificates"][place];
            if let Some(level) = one["closures"]
                .pointer_mut("/0/1")
                .and_then(Value::as_array_mut)
                && level.len() == 1
            {
                level.clear();
                if checked(&other).is_err() {
                    cut += 1;
                }
            } else if let Some(hops) = one["hops"].as_array_mut().filter(|hops| hops.len() > 1) {
                hops.pop();
                assert!(checked(&other).is_err(), "cut {place}\n{context}");
                cut += 1;
            }
        }
    }
    assert!(turned > 500 && cut > 20, "{turned} turned, {cut} cut");
}

#[test]
fn what_is_no_document_is_refused_with_what_was_expected() {
    let error = check(b"{}").expect_err("no document");
    assert!(error.contains("--certificate"), "{error}");
    let (mut document, _) = document(1);
    document["certificates"] = Value::Array(Vec::new());
    let error = checked(&document).expect_err("no certificates");
    assert!(error.contains("has no certificate"), "{error}");
}
