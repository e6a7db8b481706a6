//! What a release means, in plain values: an assessor's program re-runs the checks on these without
//! the policy compiler. The manager writes them when it publishes a release.

use lictor_types::{
    Digest, EVIDENCE_ENTRY_BYTES_MAX, Generation, GuestId, HostId, Verdict, VnicId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFacts {
    /// Its name.
    pub name: String,
    /// Who answers for it; empty if nobody does.
    pub owner: String,
    /// Why it exists; empty if nobody said.
    pub justification: String,
    /// The ticket or change that brought it; empty if there is none.
    pub ticket: String,
    /// Until when, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// The service by name; empty if it names none.
    pub service: String,
    /// Whether one end is in scope.
    pub touches_scope: bool,
    /// What it does.
    pub verdict: Verdict,
}

/// One guest as the release and its bindings see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestFacts {
    /// Who.
    pub guest: GuestId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its zone: what co-residence is judged by.
    pub zone: String,
    /// Whether an assessor counts it in.
    pub in_scope: bool,
    /// The level of its hardening; a higher number is more.
    pub baseline: u32,
    /// Its vnics.
    pub vnics: Vec<VnicId>,
    /// The controls that it needs from its host.
    pub controls: Vec<String>,
    /// Whether the policy is only observed for it: what it denies passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
    /// The computed scopes of the policy that it is in, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub computed: Vec<String>,
}

/// By whose leave a policy is only observed, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Who answers for it.
    pub owner: String,
    /// Milliseconds since 1970 after which the policy is enforced again; never if missing.
    pub until_ms: Option<u64>,
}

/// A test that two zones cannot reach each other beyond what the policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationTest {
    /// The two zones, in the order of the alphabet.
    pub zones: (String, String),
    /// When it was done.
    pub tested_ms: u64,
    /// Whether it held.
    pub passed: bool,
}

/// The facts of one release, or one part of them: what fits in no entry is split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseFacts {
    /// Its number.
    pub generation: Generation,
    /// Its digest.
    pub digest: Digest,
    /// Which part this is, from 0.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
    /// Whether everything not allowed is denied, from and toward every guest.
    pub default_deny_egress: bool,
    /// The same, toward guests.
    pub default_deny_ingress: bool,
    /// Its rules.
    pub rules: Vec<RuleFacts>,
    /// The guests.
    pub guests: Vec<GuestFacts>,
    /// The hosts on its roster.
    pub hosts: Vec<HostId>,
    /// The author's key name; empty if unsigned.
    pub author: String,
    /// The approvers' key names.
    pub approvers: Vec<String>,
    /// How many approvers it needs.
    pub approvals_required: u32,
    /// Why it was made; empty if nobody said.
    pub reason: String,
    /// The change record that it belongs to; empty if there is none.
    pub ticket: String,
    /// Segmentation tests on record.
    pub segmentation_tests: Vec<SegmentationTest>,
}

/// Bytes that an entry keeps free for what every part repeats.
const PART_HEAD_BYTES: usize = 8_192;
/// Bytes of the lists of one part.
const PART_LISTS_BYTES: usize = EVIDENCE_ENTRY_BYTES_MAX - PART_HEAD_BYTES;

/// Parts under construction.
struct Parts {
    head: ReleaseFacts,
    done: Vec<ReleaseFacts>,
    used_bytes: usize,
}

impl Parts {
    /// The part that has room for the item; the comma after it counts.
    fn for_item(&mut self, item: &impl Serialize) -> &mut ReleaseFacts {
        let bytes = serde_json::to_vec(item)
            .expect("facts have only string keys")
            .len()
            + 1;
        if self.used_bytes + bytes > PART_LISTS_BYTES {
            self.done.push(self.head.clone());
            self.used_bytes = 0;
        }
        self.used_bytes += bytes;
        self.done.last_mut().expect("one was pushed")
    }
}

impl ReleaseFacts {
    /// Splits the facts so that each part fits in one entry. Everything but rules, guests, hosts
    /// and tests is repeated in each part.
    #[must_use]
    pub fn split(mut self) -> Vec<Self> {
        let (rules, guests) = (
            std::mem::take(&mut self.rules),
            std::mem::take(&mut self.guests),
        );
        let hosts = std::mem::take(&mut self.hosts);
        let tests = std::mem::take(&mut self.segmentation_tests);
        let mut parts = Parts {
            done: vec![self.clone()],
            head: self,
            used_bytes: 0,
        };
        rules
            .into_iter()
            .for_each(|rule| parts.for_item(&rule).rules.push(rule));
        guests
            .into_iter()
            .for_each(|guest| parts.for_item(&guest).guests.push(guest));
        hosts
            .into_iter()
            .for_each(|host| parts.for_item(&host).hosts.push(host));
        tests
            .into_iter()
            .for_each(|test| parts.for_item(&test).segmentation_tests.push(test));
        let count = u32::try_from(parts.done.len()).expect("far fewer parts than 2^32");
        for (index, part) in (0..).zip(&mut parts.done) {
            (part.part, part.parts) = (index, count);
        }
        parts.done
    }

    /// Joins parts of one release; `None` until all are there.
    #[must_use]
    pub fn join(parts: &[Self]) -> Option<Self> {
        let mut whole = parts.iter().find(|part| part.part == 0)?.clone();
        for number in 1..whole.parts {
            let part = parts.iter().find(|part| part.part == number)?;
            if part.digest != whole.digest || part.parts != whole.parts {
                return None;
            }
            whole.rules.extend_from_slice(&part.rules);
            whole.guests.extend_from_slice(&part.guests);
            whole.hosts.extend_from_slice(&part.hosts);
            whole
                .segmentation_tests
                .extend_from_slice(&part.segmentation_tests);
        }
        whole.parts = 1;
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, Entry, Source};

    fn facts(rules: usize) -> ReleaseFacts {
        let rule = |n| RuleFacts {
            name: format!("rule-{n}"),
            owner: "shop".into(),
            justification: "cards are checked here".into(),
            ticket: "CHG-1".into(),
            expires_ms: None,
            service: "https".into(),
            touches_scope: true,
            verdict: Verdict::Allow,
        };
        ReleaseFacts {
            generation: Generation(1),
            digest: Digest::of(b"release"),
            part: 0,
            parts: 1,
            default_deny_egress: true,
            default_deny_ingress: true,
            rules: (0..rules).map(rule).collect(),
            guests: Vec::new(),
            hosts: vec![HostId::new("h1").expect("valid")],
            author: "ann".into(),
            approvers: vec!["ben".into()],
            approvals_required: 1,
            reason: "first".into(),
            ticket: "CHG-1".into(),
            segmentation_tests: Vec::new(),
        }
    }

    #[test]
    fn facts_of_any_size_are_split_into_entries_and_joined_again() {
        for (rules, several) in [(0, false), (10, false), (3_000, true)] {
            let parts = facts(rules).split();
            assert_eq!(parts.len() > 1, several, "{rules} rules");
            for part in &parts {
                let body = Body::ReleaseFacts(Box::new(part.clone()));
                Entry::new(Source::Manager, 0, 0, body)
                    .to_bytes()
                    .expect("each part fits");
            }
            assert_eq!(ReleaseFacts::join(&parts), Some(facts(rules)));
            assert_eq!(ReleaseFacts::join(&parts[1..]), None);
        }
    }
}
