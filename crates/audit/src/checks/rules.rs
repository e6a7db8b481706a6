//! What the release in force says.

use super::{EVERYTHING, confirmed as still_newest, no_release, observed};
use crate::catalogue::Context;
use crate::facts::At;
use crate::{Finding, Status};
use lictor_evidence::{ReleaseFacts, RuleFacts};
use lictor_types::{Digest, GuestId, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// The tier of the policy's exclusions, whose name no other tier can have: it is a word of the
/// language.
const EXCLUSION: &str = "exclude/";

/// One finding for each release that a host has loaded; the newest published if none has.
fn per_release(
    context: Context<'_>,
    judge: impl Fn(Context<'_>, &ReleaseFacts) -> Finding,
) -> Vec<Finding> {
    let facts = context.facts;
    let Some(newest) = facts.release() else {
        return vec![no_release()];
    };
    let loaded = facts.loaded();
    let mut digests: BTreeSet<Digest> = loaded.values().map(|at| at.value.release).collect();
    if digests.is_empty() {
        digests.insert(newest.value.digest);
    }
    let finding = |digest: &Digest| {
        let published = facts
            .releases
            .iter()
            .rev()
            .find(|at| at.value.digest == *digest);
        let Some(published) = published else {
            let subject = format!("release {}", digest.short());
            let reason = "a host has loaded it, and no facts about it were published";
            return Finding::new(subject, Status::Unknown, reason);
        };
        let mut finding = judge(context, &published.value);
        finding.subject = format!("release {}", published.value.generation);
        finding
            .from([published.index])
            .at(confirmed(context, published))
            .of(Some(published.value.generation))
    };
    digests.iter().map(finding).collect()
}

/// When the release was last seen in force: published, loaded, or read back.
fn confirmed(context: Context<'_>, published: &At<ReleaseFacts>) -> Option<u64> {
    let facts = context.facts;
    let release = &published.value;
    let loads = facts
        .loads
        .iter()
        .filter(|at| at.value.release == release.digest);
    let backs = facts
        .readbacks
        .iter()
        .filter(|at| at.value.1.generation == release.generation);
    let times = loads.map(|at| at.time_ms).chain(backs.map(|at| at.time_ms));
    times.chain([published.time_ms]).max()
}

/// RUL-01.
pub(crate) fn default_deny(context: Context<'_>) -> Vec<Finding> {
    per_release(context, |context, release| {
        let ways = [
            (
                release.default_deny_egress,
                "egress is allowed where no rule speaks",
            ),
            (
                release.default_deny_ingress,
                "ingress is allowed where no rule speaks",
            ),
        ];
        let open = ways
            .iter()
            .filter(|(holds, _)| !holds)
            .map(|(_, text)| (*text).to_owned());
        // Its rules are the approved ones, but what they deny is not denied.
        let guests = release.guests.iter().filter(|guest| guest.in_scope);
        let only_observed = guests.filter_map(|guest| {
            let by = observed(context, guest)?;
            let guest = &guest.guest;
            Some(format!(
                "what is denied passes at {guest}, which is only observed, {by}"
            ))
        });
        let excluded = exclusions(release, context.now_ms);
        let faults: Vec<_> = open.chain(only_observed).chain(excluded).collect();
        Finding::judged(
            "",
            &faults,
            "what no rule allows is denied, from and toward every guest in scope",
        )
        .wants("deny in both directions where no rule speaks, enforced at every guest in scope")
    })
}

/// Guests in scope that the policy takes out of itself for a time: at their end everything passes.
/// Each such statement is two rules, one for each way.
fn exclusions(release: &ReleaseFacts, now_ms: u64) -> Vec<String> {
    let rules = release.rules.iter();
    let holds = rules.filter(|rule| {
        let lasts = rule.expires_ms.is_none_or(|end| now_ms < end);
        rule.touches_scope && rule.verdict == Verdict::Allow && lasts
    });
    let told = holds.filter_map(|rule| {
        let statement = rule.name.strip_prefix(EXCLUSION)?.strip_suffix(".to")?;
        let owner = &rule.owner;
        Some(format!(
            "everything passes at the guests of the exclusion {statement}, by leave of {owner}"
        ))
    });
    told.collect()
}

/// RUL-02.
pub(crate) fn complete(context: Context<'_>) -> Vec<Finding> {
    per_release(context, |context, release| {
        let counted = |rule: &&RuleFacts| rule.touches_scope && rule.verdict == Verdict::Allow;
        let rules: Vec<_> = release.rules.iter().filter(counted).collect();
        let faults: Vec<_> = rules
            .iter()
            .filter_map(|rule| incomplete(rule, context.now_ms))
            .collect();
        let count = rules.len();
        let reason = "every allow that touches what is in scope is complete";
        Finding::judged("", &faults, reason)
            .saw(format!(
                "{count} allows touch what is in scope, {} incomplete",
                faults.len()
            ))
            .wants("owner, justification and service for each, and none past its end")
    })
}

fn incomplete(rule: &RuleFacts, now_ms: u64) -> Option<String> {
    let fields = [
        (rule.owner.as_str(), "owner"),
        (&rule.justification, "justification"),
        (&rule.service, "service"),
    ];
    let mut missing: Vec<_> = fields
        .iter()
        .filter(|(value, _)| value.trim().is_empty())
        .map(|(_, name)| format!("no {name}"))
        .collect();
    if rule.expires_ms.is_some_and(|end| end <= now_ms) {
        missing.push("past its end".into());
    }
    (!missing.is_empty()).then(|| format!("rule {}: {}", rule.name, missing.join(", ")))
}

/// RUL-03. A computed scope follows from the rules that allow, and is signed with them. Who matches
/// it changes with each binding, which nobody else approves.
pub(crate) fn computed(context: Context<'_>) -> Vec<Finding> {
    let facts = context.facts;
    let (Some(signed), Some(now)) = (facts.releases.last(), facts.release()) else {
        return vec![no_release()];
    };
    let (before, after) = (members(&signed.value), members(&now.value));
    let scopes: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    if scopes.is_empty() {
        let reason = "no guest is in a computed scope of the newest release";
        let finding = Finding::new(EVERYTHING, Status::NotApplicable, reason);
        return vec![finding.from([signed.index]).at(still_newest(context))];
    }
    let nobody = BTreeSet::new();
    let finding = |scope: &str| {
        let [before, after] = [&before, &after].map(|all| all.get(scope).unwrap_or(&nobody));
        let came = after
            .difference(before)
            .map(|guest| format!("{guest} came"));
        let left = before
            .difference(after)
            .map(|guest| format!("{guest} left"));
        let faults: Vec<String> = came.chain(left).collect();
        let others = before.symmetric_difference(after);
        let said = others.filter_map(|guest| facts.said_by(guest));
        Finding::judged(
            format!("scope {scope}"),
            &faults,
            "its members are those of when the release was published",
        )
        .saw(format!("{} guests then, {} now", before.len(), after.len()))
        .wants("the same guests, or a release that was made with them: publish one")
        .from(said.chain([signed.index]))
        .at(still_newest(context))
        .of(Some(signed.value.generation))
    };
    scopes.into_iter().map(finding).collect()
}

/// The guests in each computed scope.
fn members(release: &ReleaseFacts) -> BTreeMap<&str, BTreeSet<&GuestId>> {
    let mut members: BTreeMap<&str, BTreeSet<&GuestId>> = BTreeMap::new();
    for guest in &release.guests {
        for scope in &guest.computed {
            members.entry(scope).or_default().insert(&guest.guest);
        }
    }
    members
}
