//! A release as those who sign it must see it.

use crate::output::{Answer, Cell, Page, Tone};
use crate::release::Draft;
use crate::site::text;
use lictor_policy::{At, Compiled, Identity, RuleInfo};
use lictor_types::IdentityId;
use lictor_wire::{Exception, Release, Trust};
use serde_json::{Value, json};
use std::fmt::Display;

/// What names a release: printed whenever somebody signs or publishes one.
pub(crate) fn head(draft: &Draft, page: Page) -> Page {
    let Draft {
        release, digest, ..
    } = draft;
    let policy = &release.policy;
    page.fields([
        ("digest", digest.into()),
        ("deployment", (&release.deployment).into()),
        ("generation", release.generation.into()),
        (
            "policy",
            format!("{} version {}", policy.policy, policy.version).into(),
        ),
        ("policy text", policy.source.into()),
        ("compiled for", policy.date.into()),
        ("rules", policy.rules.len().into()),
        ("identities", policy.identities.len().into()),
        ("rules in force", policy.lines.len().into()),
        ("hosts", release.roster.len().into()),
        ("delegations", release.delegations.len().into()),
    ])
}

/// The same for programs.
pub(crate) fn head_value(draft: &Draft) -> Value {
    let Release {
        deployment,
        generation,
        policy,
        roster,
        delegations,
        ..
    } = &draft.release;
    json!({
        "digest": draft.digest, "deployment": deployment, "generation": generation,
        "policy": policy.policy, "version": policy.version, "source": policy.source,
        "date": policy.date, "rules": policy.rules.len(), "identities": policy.identities.len(),
        "lines": policy.lines.len(), "hosts": roster.len(),
        "delegations": delegations.len(),
    })
}

/// Everything that a signature stands for, and the signatures.
pub(crate) fn release(draft: &Draft, trust: Option<&Trust>) -> Answer {
    let standing = draft.standing(trust);
    let policy = &draft.release.policy;
    let page = head(draft, Page::default());
    let page = rules(policy, page);
    let page = intents(&draft.release, page);
    let page = identities(policy, page);
    let page = computed(policy, page);
    let page = failure(policy, page);
    let page = people(&draft.release, page);
    let page = standing.page(page);
    let value = json!({
        "digest": draft.digest, "release": draft.release, "standing": standing,
    });
    Answer::new(page, &value).ending(standing.ending())
}

fn rules(policy: &Compiled, page: Page) -> Page {
    let mut rules: Vec<&RuleInfo> = policy.rules.iter().collect();
    rules.sort_by_key(|rule| rule.order);
    let head = [
        "rule", "action", "from", "to", "service", "expires", "log", "owner", "why",
    ];
    let rows = rules.into_iter().map(|rule| {
        [
            rule.name.as_str().into(),
            rule.action.into(),
            rule.from.as_str().into(),
            rule.to.as_str().into(),
            scope_of(rule).into(),
            Cell::optional(rule.expires),
            rule.log.name().into(),
            Cell::optional(rule.owner.as_deref()),
            Cell::optional(rule.justification.as_deref()),
        ]
    });
    let page = page.section("rules, in order; what none names is denied");
    let page = page.table(head, rows);
    let expired = policy.expired.iter().map(|one| {
        let became = match one.action {
            lictor_policy::ExpiredAction::Dropped => "dropped",
            lictor_policy::ExpiredAction::KeptWithAlarm => "kept, with an alarm",
        };
        [
            one.what.as_str().into(),
            one.expires.into(),
            became.into(),
            Cell::optional(one.owner.as_deref()),
            Cell::optional((!one.cuts.is_empty()).then(|| cuts(policy, one))),
        ]
    });
    let page = page.section("past their last day");
    page.table(
        ["what", "last day", "became", "owner", "only it allows"],
        expired,
    )
}

/// What was proved is the word of whoever made the release; exceptions are shown as they say.
fn intents(release: &Release, page: Page) -> Page {
    let proved = release.proved.as_ref();
    let held = |name: &String| proved.is_some_and(|one| one.held.contains(name));
    let signed = proved.into_iter().flat_map(|one| &one.excepted);
    let payloads = signed.filter_map(|one| one.unverified_payload().ok());
    let excepted: Vec<Exception> = payloads
        .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
        .collect();
    let rows = release.policy.intents.iter().map(|one| {
        let exception = excepted.iter().find(|known| known.intent == one.name);
        let outcome = match (held(&one.name), exception) {
            (true, _) => Cell::toned(Tone::Good, "held"),
            (false, Some(known)) => {
                let (expires, owner, why) = (known.expires, &known.owner, &known.justification);
                let text = format!("excepted until {expires} by {owner}: {why}");
                Cell::toned(Tone::Doubt, text)
            }
            (false, None) => Cell::toned(Tone::Bad, "not proved: no agent takes it"),
        };
        [one.name.as_str().into(), one.text.as_str().into(), outcome]
    });
    let estate = proved.map(|one| one.estate);
    page.section("intents")
        .table(["name", "says", "outcome"], rows)
        .fields([("proved over the estate", Cell::optional(estate))])
}

/// The ports, and where and when the rule speaks if that is not everywhere and always.
fn scope_of(rule: &RuleInfo) -> String {
    let mut text = rule.service.clone();
    if let Some((name, _)) = At::NAMED.iter().find(|(_, at)| *at == rule.at) {
        text.push_str(&format!(" at {name}"));
    }
    if let Some(days) = rule.during {
        text.push_str(&format!(" on {days}"));
    }
    text
}

/// What only an expired rule allows, as far as the release lists it.
fn cuts(policy: &Compiled, one: &lictor_policy::Expired) -> String {
    let shown = one.cuts.iter().map(|cut| {
        let (from, to) = (named(policy, cut.from), named(policy, cut.to));
        format!("{from} to {to} {}", cut.service)
    });
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if one.more_cuts > 0 {
        text.push_str(&format!("; and {} more", one.more_cuts));
    }
    text
}

fn computed(policy: &Compiled, page: Page) -> Page {
    let rows = policy.computed.iter().map(|row| {
        let members: Vec<String> = row.members.iter().map(|id| named(policy, *id)).collect();
        [row.scope.as_str().into(), members.join(" | ").into()]
    });
    page.section("computed scopes")
        .table(["scope", "members"], rows)
}

fn identities(policy: &Compiled, page: Page) -> Page {
    let rows = policy.identities.iter().map(|one| {
        let marks = [(one.sensitive, "sensitive"), (one.quarantine, "quarantine")];
        let marks = marks.iter().filter(|(holds, _)| *holds);
        let marks: Vec<&str> = marks.map(|(_, mark)| *mark).collect();
        [
            one.id.into(),
            members(policy, one).into(),
            Cell::optional((!marks.is_empty()).then(|| marks.join(" "))),
        ]
    });
    let page = page.section("identities");
    let page = page.table(["identity", "members", "marks"], rows);
    let prefixes = policy.prefixes.iter();
    let prefixes = prefixes.map(|row| [row.prefix.into(), row.identity.into()]);
    page.section("outside addresses")
        .table(["prefix", "identity"], prefixes)
}

fn members(policy: &Compiled, identity: &Identity) -> String {
    let sets: Vec<String> = identity.labels.iter().map(text).collect();
    if sets.is_empty() {
        let selectors: Vec<_> = policy.selectors_of(identity).collect();
        return format!("outside: {}", selectors.join(", "));
    }
    sets.join(" | ")
}

fn named(policy: &Compiled, id: IdentityId) -> String {
    policy
        .identity(id)
        .map_or_else(|| id.to_string(), |one| members(policy, one))
}

fn failure(policy: &Compiled, page: Page) -> Page {
    let choices = policy.choices.iter().map(|row| {
        [
            row.cause.into(),
            row.choice.into(),
            named(policy, row.identity).into(),
            Cell::optional(row.expires),
            row.owner.as_str().into(),
            Cell::optional(row.justification.as_deref()),
        ]
    });
    let head = ["cause", "choice", "guests", "expires", "owner", "why"];
    let page = page.section("when protection is impaired; otherwise each cause's default holds");
    let page = page.table(head, choices);
    let defaults = lictor_policy::Cause::ALL.iter();
    let defaults = defaults.map(|cause| [cause.into(), cause.default_choice().into()]);
    let page = page
        .section("defaults")
        .table(["cause", "choice"], defaults);
    let controls = policy.controls.iter().map(|row| {
        let controls = row.controls.iter();
        let controls: Vec<&str> = controls.map(lictor_policy::ControlName::as_str).collect();
        [
            named(policy, row.identity).into(),
            controls.join(" ").into(),
        ]
    });
    page.section("required controls")
        .table(["guests", "controls"], controls)
}

fn people(release: &Release, page: Page) -> Page {
    let roster = release.roster.iter().map(|one| {
        [
            (&one.host).into(),
            one.cluster.as_str().into(),
            one.peer.into(),
            (&one.key).into(),
        ]
    });
    let page = page.section("hosts: agents are known by these keys");
    let page = page.table(["host", "cluster", "peer", "key"], roster);
    let delegations = release.delegations.iter().map(|one| {
        let labels: Vec<String> = one.labels.iter().map(text).collect();
        [
            one.guests_max.into(),
            labels.join(" | ").into(),
            list(&one.prefixes).into(),
            list(&one.segments).into(),
            (&one.key).into(),
        ]
    });
    let head = ["guests", "labels", "prefixes", "segments", "key"];
    page.section("delegations: who may bind what")
        .table(head, delegations)
}

pub(crate) fn list(items: &[impl Display]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(" ")
}
