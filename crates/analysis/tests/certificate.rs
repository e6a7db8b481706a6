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

/// Takes each end out of each level of each closure, one at a time. An end that no level before its
/// own names is missed: nothing else says why nobody comes by it. Gives how many were.
fn parts_left_out((document, place): (&Value, usize), context: &str) -> usize {
    let bits = |level: &Value| level[0].as_u64().unwrap_or(0);
    let path = format!("/certificates/{place}/closures");
    let closures = document.pointer(&path).and_then(Value::as_array);
    let mut left_out = 0;
    for (at, closure) in closures.into_iter().flatten().enumerate() {
        let levels: Vec<u64> = closure.as_array().into_iter().flatten().map(bits).collect();
        // Levels that no session within the claim's hops begins at say nothing.
        let claim = &document["intents"][place]["claim"];
        let hops = claim.as_object().and_then(|one| one.values().next());
        let hops = hops.and_then(|one| one["hops"].as_u64());
        let counts = |distance: usize| hops.is_none_or(|hops| (distance as u64) < hops);
        for (distance, level) in levels.iter().enumerate().filter(|one| counts(one.0)) {
            for node in (0..64).filter(|node| level >> node & 1 == 1) {
                if levels[..distance]
                    .iter()
                    .any(|known| known >> node & 1 == 1)
                {
                    continue;
                }
                let mut other = document.clone();
                let place = format!("{path}/{at}/{distance}/0");
                let word = other.pointer_mut(&place).expect("a level");
                *word = Value::from(level & !(1 << node));
                let found = checked(&other);
                assert!(
                    found.is_err(),
                    "{node} out of {place}\n{context}\n{document:#}"
                );
                left_out += 1;
            }
        }
    }
    left_out
}

#[test]
fn every_certificate_is_accepted_and_none_that_says_the_opposite() {
    let (mut turned, mut cut, mut left_out) = (0, 0, 0);
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
            // A session is left out of a chain.
            let mut other = document.clone();
            let hops = other["certificates"][place]["hops"].as_array_mut();
            if let Some(hops) = hops.filter(|hops| hops.len() > 1) {
                hops.pop();
                assert!(checked(&other).is_err(), "cut {place}\n{context}");
                cut += 1;
            }
            left_out += parts_left_out((&document, place), &context);
        }
    }
    let told = format!("{turned} turned, {cut} cut, {left_out} left out");
    assert!(turned > 500 && cut > 5 && left_out > 1_000, "{told}");
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
