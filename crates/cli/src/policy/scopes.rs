//! Who comes into a computed scope or leaves it: by another version of the policy, or since a
//! release was signed.

use crate::output::{Cell, Page};
use lictor_analysis::ScopeChange;
use lictor_policy::{Compiled, End, Labels, Policy};
use std::collections::BTreeMap;

/// What differs, if anything does.
pub(crate) fn told(page: Page, changes: &[ScopeChange]) -> Page {
    if changes.is_empty() {
        return page;
    }
    let rows = changes.iter().map(|one| {
        let side = |side: &Option<String>| Cell::optional(side.as_deref());
        [(&one.scope).into(), side(&one.came), side(&one.left)]
    });
    page.section("computed scopes")
        .table(["scope", "comes in", "leaves"], rows)
}

/// The label sets of a release that are in a computed scope by this text and were not when it was
/// signed, and the other way round.
pub(crate) fn since_signed(policy: &Policy, signed: &Compiled) -> Vec<ScopeChange> {
    let mut names: BTreeMap<&str, [Vec<&Labels>; 2]> = BTreeMap::new();
    let computed = policy.scopes.iter();
    let computed = computed.filter(|(_, scope)| scope.computed.is_some());
    names.extend(computed.map(|(name, _)| (name.as_str(), Default::default())));
    let rows = signed.computed.iter();
    names.extend(rows.map(|row| (row.scope.as_str(), Default::default())));
    for (name, [came, left]) in &mut names {
        let row = signed.computed.iter().find(|row| row.scope == *name);
        let scope = policy.scopes.get(*name);
        for class in &signed.identities {
            let before = row.is_some_and(|row| row.members.contains(&class.id));
            for labels in &class.labels {
                let end = End::Guest(labels.clone());
                let after = scope.is_some_and(|one| one.selector.matches(&end, &policy.sets));
                match (before, after) {
                    (false, true) => came.push(labels),
                    (true, false) => left.push(labels),
                    _ => {}
                }
            }
        }
    }
    let told = |sets: Vec<&Labels>| {
        let sets: Vec<String> = sets.into_iter().map(crate::site::text).collect();
        (!sets.is_empty()).then(|| sets.join(" | "))
    };
    let changes = names.into_iter().map(|(scope, [came, left])| ScopeChange {
        scope: scope.to_owned(),
        came: told(came),
        left: told(left),
    });
    changes
        .filter(|one| one.came.is_some() || one.left.is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_policy::{CompileInput, compile, parse};

    #[test]
    fn label_sets_that_a_text_takes_into_a_computed_scope_are_told_by_the_signed_release() {
        let text = |from: &str| {
            format!(
                "policy \"p\" version 1\nlabel zone : one-of cde web ops\n\
                 scope cde = zone:cde\nscope near = computed one-hop cde\n\
                 tier t allow-only {{ allow a from zone:{from} to zone:cde service tcp/1 }}\n"
            )
        };
        let read = |text: String| parse("p", text.as_bytes()).0.expect("sound");
        let label_sets = ["cde", "web", "ops"].map(|zone| [("zone".into(), zone.into())].into());
        let input = CompileInput {
            label_sets: label_sets.to_vec(),
            date: "2026-11-24".parse().expect("a date"),
        };
        let signed = compile(&read(text("web")), &input).expect("small");
        let check = |from: &str, expected: &[[Option<&str>; 2]]| {
            let found = since_signed(&read(text(from)), &signed);
            let told: Vec<_> = found
                .iter()
                .map(|one| [one.came.as_deref(), one.left.as_deref()])
                .collect();
            assert_eq!(told, expected, "{from}");
        };
        check("web", &[]);
        check("ops", &[[Some("zone=ops"), Some("zone=web")]]);
    }
}
