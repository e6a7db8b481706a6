//! Who comes into a computed scope, and who leaves it, because rules that allow have changed.

use crate::lint_region::{Region, Space, TooMany};
use lictor_policy::{Policy, Selector};
use serde::Serialize;
use std::collections::BTreeSet;

/// A computed scope with other members than before, over every guest and host that there may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScopeChange {
    /// The scope.
    pub scope: String,
    /// Who is in it only by the newer version, as an expression over labels.
    pub came: Option<String>,
    /// Who is in it only by the older version.
    pub left: Option<String>,
}

/// The computed scopes of either version whose members differ; a version that does not compute a
/// scope has nobody in it. The second list names those of which it would take too long to say.
pub(crate) fn scopes([old, new]: [&Space<'_>; 2]) -> (Vec<ScopeChange>, Vec<String>) {
    let names: BTreeSet<&String> = [old, new].iter().flat_map(|one| computed(one)).collect();
    let (mut changes, mut undecided) = (Vec::new(), Vec::new());
    for name in names {
        match change([old, new], name) {
            Ok(change) => changes.extend(change),
            Err(TooMany) => undecided.push(format!("scope {name}")),
        }
    }
    (changes, undecided)
}

fn computed<'s>(space: &Space<'s>) -> impl Iterator<Item = &'s String> + use<'s> {
    let scopes = space.policy.scopes.iter();
    scopes
        .filter(|(_, scope)| scope.computed.is_some())
        .map(|(name, _)| name)
}

fn change([old, new]: [&Space<'_>; 2], name: &str) -> Result<Option<ScopeChange>, TooMany> {
    let selector = |policy: &Policy| -> Option<Selector> {
        let scope = policy.scopes.get(name)?;
        scope.computed.as_ref().map(|_| scope.selector.clone())
    };
    let of = |space: &Space<'_>| -> Result<Region, TooMany> {
        selector(space.policy).map_or_else(|| Ok(Region::default()), |one| space.region(&one))
    };
    let (before, after) = (of(old)?, of(new)?);
    let told = |space: &Space<'_>, region: Region| {
        let some = Some(region).filter(|region| !region.is_empty());
        some.map(|region| space.text(&region))
    };
    let change = ScopeChange {
        scope: name.to_owned(),
        came: told(new, after.without(&before)?),
        left: told(old, before.without(&after)?),
    };
    let same = change.came.is_none() && change.left.is_none();
    Ok((!same).then_some(change))
}

#[cfg(test)]
mod tests {
    use crate::diff;
    use lictor_policy::{Policy, parse, render};

    fn policy(rules: &str) -> Policy {
        let text = format!(
            "policy \"p\" version 1
label zone : one-of cde corp dmz required
label tier : one-of web app
scope cde = zone:cde
scope near = computed one-hop cde
scope all = computed closure cde
tier t allow-only owner \"o\" {{ {rules} }}\n"
        );
        let (policy, diagnostics) = parse("p", text.as_bytes());
        policy.unwrap_or_else(|| panic!("{}", render(&diagnostics, text.as_bytes())))
    }

    /// Each change as `scope +came -left`.
    fn check(old: &str, new: &str, expected: &[&str]) {
        let date = "2026-11-24".parse().expect("a date");
        let found = diff(&policy(old), &policy(new), date).expect("decided");
        let told = found.scopes.iter().map(|one| {
            let side = |sign, text: &Option<String>| {
                let text = text.as_ref();
                text.map_or_else(String::new, |text| format!(" {sign}{text}"))
            };
            format!(
                "{}{}{}",
                one.scope,
                side('+', &one.came),
                side('-', &one.left)
            )
        });
        assert_eq!(told.collect::<Vec<_>>(), expected, "{old} | {new}");
    }

    #[test]
    fn who_comes_into_a_computed_scope_and_leaves_it_is_told_in_labels() {
        let web = "allow a from zone:dmz & tier:web to zone:cde service tcp/443";
        let any = "allow a from zone:dmz to zone:cde service tcp/443";
        let far = "allow b from zone:corp to zone:dmz & tier:web service tcp/22";
        check(web, web, &[]);
        // Another port joins nobody else.
        check(web, &web.replace("443", "444"), &[]);
        let more = [
            "all +(tier:app or not tier:*) & zone:dmz",
            "near +(tier:app or not tier:*) & zone:dmz",
        ];
        check(web, any, &more);
        check(web, &format!("{web} {far}"), &["all +zone:corp"]);
        let gone = ["all -tier:web & zone:dmz", "near -tier:web & zone:dmz"];
        check(web, "", &gone);
    }
}
