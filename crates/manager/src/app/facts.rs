//! What a release means, in plain values that an assessor's program can judge without the compiler.

use lictor_evidence::{Body, GuestFacts, Observed, ReleaseFacts, RuleFacts};
use lictor_policy::{Action, Compiled, Date, RuleInfo};
use lictor_types::{IdentityId, Verdict};
use lictor_wire::{Binding, Bindings, Trust, VerifiedRelease};

/// The label that names a guest's zone.
const ZONE_LABEL: &str = "zone";
/// The label that gives the level of a guest's hardening.
const BASELINE_LABEL: &str = "baseline";
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// The facts of a release, in as many entries as they need.
pub(super) fn release_facts(
    release: &VerifiedRelease,
    bindings: &Bindings,
    trust: &Trust,
) -> Vec<Body> {
    let policy = &release.release().policy;
    let facts = ReleaseFacts {
        generation: release.release().generation,
        digest: release.digest(),
        part: 0,
        parts: 1,
        // The compiled tables hold what rules allow or deny; what is absent is denied in both
        // directions, and no release can say otherwise.
        default_deny_egress: true,
        default_deny_ingress: true,
        rules: policy.rules.iter().map(rule_facts).collect(),
        guests: bindings
            .guests()
            .map(|binding| guest_facts(policy, binding))
            .collect(),
        hosts: release
            .release()
            .roster
            .iter()
            .map(|host| host.host.clone())
            .collect(),
        author: release.author().name().to_string(),
        approvers: release
            .approvers()
            .iter()
            .map(|key| key.name().to_string())
            .collect(),
        approvals_required: trust.approvals_required,
        reason: format!("policy {} version {}", policy.policy, policy.version),
        ticket: String::new(),
        segmentation_tests: Vec::new(),
    };
    facts
        .split()
        .into_iter()
        .map(|part| Body::ReleaseFacts(Box::new(part)))
        .collect()
}

/// What one binding changes in the facts of its release.
pub(super) fn guest_bound(release: &VerifiedRelease, binding: &Binding) -> Body {
    let facts = || Box::new(guest_facts(&release.release().policy, binding));
    Body::GuestBound {
        release: release.digest(),
        epoch: binding.epoch,
        guest: binding.guest.clone(),
        facts: (!binding.retired).then(facts),
    }
}

fn rule_facts(rule: &RuleInfo) -> RuleFacts {
    RuleFacts {
        name: rule.name.clone(),
        owner: rule.owner.clone().unwrap_or_default(),
        justification: rule.justification.clone().unwrap_or_default(),
        ticket: String::new(),
        expires_ms: rule.expires.map(end_of),
        service: rule.service.clone(),
        touches_scope: rule.touches_sensitive,
        verdict: match rule.action {
            // What passes may be allowed further down, so its owner must answer as for an allow.
            Action::Allow | Action::Pass => Verdict::Allow,
            Action::Deny | Action::Reject => Verdict::Deny,
        },
    }
}

/// The first millisecond after a day: the last day itself still counts.
fn end_of(date: Date) -> u64 {
    // Dates compare in order, so the number of days is found by halving.
    let day = |days: u64| Date::from_unix_seconds(days * 24 * 60 * 60);
    let (mut low, mut high) = (0, 3_000_000);
    while low < high {
        let middle = u64::midpoint(low, high);
        if day(middle) <= date {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low * DAY_MS
}

fn guest_facts(policy: &Compiled, binding: &Binding) -> GuestFacts {
    let identity = policy.identity_of(&binding.labels);
    let class = identity.and_then(|id| policy.identity(id));
    let labels = binding.labels.clone();
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    GuestFacts {
        guest: binding.guest.clone(),
        zone: label(ZONE_LABEL),
        in_scope: class.is_some_and(|class| class.sensitive),
        baseline: label(BASELINE_LABEL).parse().unwrap_or_default(),
        vnics: binding.vnics.iter().map(|vnic| vnic.vnic).collect(),
        controls: identity
            .map(|id| policy.required_controls(id))
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect(),
        observed: identity.and_then(|id| observed(policy, id)),
        computed: identity.map(|id| computed(policy, id)).unwrap_or_default(),
        labels,
    }
}

/// The computed scopes that a class of guests is in.
fn computed(policy: &Compiled, identity: IdentityId) -> Vec<String> {
    let scopes = policy.computed.iter();
    let within = scopes.filter(|one| one.members.contains(&identity));
    within.map(|one| one.scope.clone()).collect()
}

/// Whoever reads the facts knows the day, and whether it is over.
fn observed(policy: &Compiled, identity: IdentityId) -> Option<Observed> {
    let row = policy
        .observed
        .iter()
        .find(|row| row.identity == identity)?;
    Some(Observed {
        owner: row.owner.clone(),
        until_ms: row.expires.map(end_of),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_ends_after_its_last_day() {
        for (year, month, day, ends_s) in [
            (1970, 1, 1, 86_400),
            (2026, 11, 24, 1_795_564_800),
            (2024, 2, 29, 1_709_251_200_u64),
        ] {
            let date = Date::new(year, month, day).expect("a day");
            assert_eq!(end_of(date), ends_s * 1_000, "{date:?}");
        }
    }
}
