//! Whether selectors can hold together for some guest or address. Exact over labels: only the
//! values that the selectors mention, one other value and absence can make a difference. Sets are
//! taken as independent, and where there are too many cases the answer is yes: both err towards
//! "it may".

use crate::{HOST_LABEL, Label, Labels, Selector};
use std::collections::{BTreeMap, BTreeSet};

/// Combinations of label values or set memberships that are tried.
const CASES_MAX: usize = 4_096;

/// A value that no policy text can contain.
const OTHER: &str = "\n";

/// Whether some end makes every selector have the truth that is asked of it.
pub(crate) fn satisfiable(labels: &BTreeMap<String, Label>, asked: &[(&Selector, bool)]) -> bool {
    let mut mentioned: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut sets: BTreeSet<&str> = BTreeSet::new();
    for (selector, _) in asked {
        selector.visit(&mut |leaf| match leaf {
            Selector::Label { name, value } => {
                mentioned.entry(name).or_default().insert(value);
            }
            Selector::Has(name) => {
                mentioned.entry(name).or_default();
            }
            Selector::Guests | Selector::Hosts => {
                mentioned.entry(HOST_LABEL).or_default();
            }
            Selector::Set(name) => {
                sets.insert(name);
            }
            _ => {}
        });
    }
    guest_satisfies(labels, &mentioned, asked) || address_satisfies(&sets, asked)
}

fn guest_satisfies(
    labels: &BTreeMap<String, Label>,
    mentioned: &BTreeMap<&str, BTreeSet<&str>>,
    asked: &[(&Selector, bool)],
) -> bool {
    let mut options: Vec<(&str, Vec<Option<&str>>)> = Vec::new();
    let mut cases = 1_usize;
    for (name, values) in mentioned {
        let mut choices: Vec<Option<&str>> = values.iter().map(|value| Some(*value)).collect();
        let declared = labels.get(*name);
        match declared.and_then(|label| label.values.as_ref()) {
            Some(list) => {
                let other = list.iter().find(|value| !values.contains(value.as_str()));
                choices.extend(other.map(|value| Some(value.as_str())));
            }
            None => choices.push(Some(OTHER)),
        }
        // A guest without a required label is in quarantine, and nothing is allowed to it. A host
        // is not, and whether an end is a host matters only if something asks for that.
        let host = mentioned.contains_key(HOST_LABEL);
        if host || !declared.is_some_and(|label| label.required) {
            choices.push(None);
        }
        cases = cases.saturating_mul(choices.len());
        options.push((name, choices));
    }
    if cases > CASES_MAX {
        return true;
    }
    (0..cases).any(|mut case| {
        let mut guest = Labels::new();
        for (name, choices) in &options {
            if let Some(value) = choices[case % choices.len()] {
                guest.insert((*name).to_owned(), value.to_owned());
            }
            case /= choices.len();
        }
        let host = guest.contains_key(HOST_LABEL);
        let bare = labels.iter().any(|(name, label)| {
            label.required && mentioned.contains_key(name.as_str()) && !guest.contains_key(name)
        });
        (host || !bare)
            && asked
                .iter()
                .all(|(selector, truth)| selector.holds(Some(&guest), &|_| false) == *truth)
    })
}

fn address_satisfies(sets: &BTreeSet<&str>, asked: &[(&Selector, bool)]) -> bool {
    let sets: Vec<&str> = sets.iter().copied().collect();
    let Some(cases) = u32::try_from(sets.len())
        .ok()
        .and_then(|bits| 1_usize.checked_shl(bits))
    else {
        return true;
    };
    if cases > CASES_MAX {
        return true;
    }
    (0..cases).any(|case| {
        let in_set = |name: &str| {
            sets.iter()
                .position(|set| *set == name)
                .is_some_and(|bit| case >> bit & 1 == 1)
        };
        asked
            .iter()
            .all(|(selector, truth)| selector.holds(None, &in_set) == *truth)
    })
}
