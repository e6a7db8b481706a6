//! The resolved policy: every name looked up, every scope written out, every check passed.

use crate::{Cause, Choice, Date, Delegation, Intent, Selector, Service, Window};
use ipnet::IpNet;
use lictor_types::{Digest, Direction, RuleId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// A guest's labels: one value for each name.
pub type Labels = BTreeMap<String, String>;

/// The label that a host's own device has; its value is the host's name. No policy declares it.
pub const HOST_LABEL: &str = "host";

/// A policy that has passed every check. Made by [`crate::parse`] only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Its version, counted by its authors.
    pub version: u64,
    /// The digest of the text it was read from.
    pub source: Digest,
    /// The labels that guests carry.
    pub labels: BTreeMap<String, Label>,
    /// Named prefixes, outside of every guest.
    pub sets: BTreeMap<String, Vec<IpNet>>,
    /// Named services.
    pub services: BTreeMap<String, Service>,
    /// Named days of the week and hours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub windows: BTreeMap<String, Window>,
    /// Named selectors.
    pub scopes: BTreeMap<String, Scope>,
    /// The tiers in the order of evaluation: isolations, exclusions, ordered ones, then allow-only.
    pub tiers: Vec<Tier>,
    /// Whether packets that no rule names are reported as events.
    pub baseline_log: Log,
    /// What guests need from their hosts.
    pub controls: Vec<ControlRequirement>,
    /// What owners chose for the case that protection is impaired.
    pub choices: Vec<FailureChoice>,
    /// Guests for which the policy is only observed.
    pub observed: Vec<Observation>,
    /// Who may bind what; the release's delegations lie inside of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegations: Vec<Delegation>,
    /// Statements to be proved; see [`Intent`].
    pub intents: Vec<Intent>,
}

/// The declaration of a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The values that it may have; any if there is no list.
    pub values: Option<Vec<String>>,
    /// Whether a guest without it is in quarantine.
    pub required: bool,
    /// Whether the text says that a guest has at most one value. Guests never have more.
    pub exclusive: bool,
}

/// A named selector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// What it selects.
    pub selector: Selector,
    /// Whether rules that touch it need an owner, a justification and an expiry.
    pub sensitive: bool,
    /// How its selector was computed, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computed: Option<Computed>,
}

/// How a scope follows from another one and the rules that allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computed {
    /// The scope that it begins from.
    pub of: String,
    /// How many rules may lie between; any number if it is missing.
    pub hops: Option<u32>,
}

/// How the rules of a tier relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TierKind {
    /// The first rule that matches decides, or passes to the next tier.
    Ordered,
    /// An application tier: its rules only allow, and their order means nothing.
    AllowOnly,
}

/// What happens to a rule after its last day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExpiry {
    /// It no longer allows anything. Reported.
    Drop,
    /// It goes on. Reported as an alarm.
    KeepAndAlarm,
}

/// Whether rules take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They do.
    Enforce,
    /// What they would have done is counted and reported.
    Observe,
}

/// A group of rules with one owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// How its rules relate.
    pub kind: TierKind,
    /// Whether its rules take effect.
    pub mode: Mode,
    /// Who answers for its rules, where a rule does not say otherwise.
    pub owner: Option<String>,
    /// The guests that its owner may open.
    pub within: Option<Selector>,
    /// What happens to its rules after their last day.
    pub on_expiry: OnExpiry,
    /// Its rules, in the order of the text.
    pub rules: Vec<Rule>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The session is allowed.
    Allow,
    /// The session is denied.
    Deny,
    /// The session is denied, and whoever begins it is told.
    Reject,
    /// The next tier decides.
    Pass,
}

/// At which end of a session a rule speaks.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// At both ends.
    #[default]
    Both,
    /// Only at the end that begins the session.
    Egress,
    /// Only at the end that is asked.
    Ingress,
}

impl At {
    /// The ends that a rule text can name.
    pub const NAMED: [(&str, Self); 2] = [("egress", Self::Egress), ("ingress", Self::Ingress)];

    /// Whether a rule speaks at this end.
    #[must_use]
    pub fn covers(self, direction: Direction) -> bool {
        match self {
            Self::Both => true,
            Self::Egress => direction == Direction::Egress,
            Self::Ingress => direction == Direction::Ingress,
        }
    }

    pub(crate) fn is_both(&self) -> bool {
        *self == Self::Both
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Pass => "pass",
        })
    }
}

/// What is reported as an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// Nothing; counters only.
    Off,
    /// New sessions and denials.
    New,
    /// New sessions and denials, and their end.
    All,
    /// New sessions and denials, each an alert.
    Alert,
}

impl Log {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::New, Self::All, Self::Alert];

    /// The name as the policy text writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::New => "new",
            Self::All => "all",
            Self::Alert => "alert",
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// A number made of its name, so that it survives reordering.
    pub id: RuleId,
    /// `tier/rule`.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Who begins the session.
    pub from: Selector,
    /// Who is asked.
    pub to: Selector,
    /// The ports.
    pub service: Service,
    /// At which end it speaks.
    pub at: At,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Why it exists.
    pub justification: Option<String>,
    /// The clauses that it serves, such as `pci:1.2.5`.
    pub requirements: Vec<String>,
    /// Days between reviews.
    pub review_days: Option<u32>,
    /// The last day on which it allows.
    pub expires: Option<Date>,
    /// When it allows; always if it is missing.
    pub during: Option<Window>,
    /// What is reported.
    pub log: Log,
    /// Events that it reports of one vnic in one second; as many as the vnic may if it is missing.
    pub log_limit: Option<u16>,
    /// New sessions that it allows one vnic in one second; as many as come if it is missing.
    pub limit: Option<u32>,
    /// Whether one of its ends may be in a sensitive scope.
    pub touches_sensitive: bool,
    /// The file in which it stands, if the policy has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line on which it begins, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

impl Rule {
    /// Whether its last day is over.
    #[must_use]
    pub fn expired(&self, date: Date) -> bool {
        self.expires.is_some_and(|expires| date > expires)
    }

    /// Whether there is an hour of a day at which it allows.
    #[must_use]
    pub fn on_its_day(&self, date: Date) -> bool {
        self.during.is_none_or(|window| window.contains(date))
    }

    /// The number that belongs to a name: the first non-zero four bytes of its digest.
    #[must_use]
    pub fn id_of(name: &str) -> RuleId {
        RuleId(number_of(&Digest::of(
            format!("lictor rule v1\n{name}").as_bytes(),
        )))
    }
}

/// The first four bytes of a digest, or of the digest's later parts: zero and the two largest
/// numbers are taken.
pub(crate) fn number_of(digest: &Digest) -> u32 {
    let (words, _) = digest.0.as_chunks::<4>();
    words
        .iter()
        .map(|word| u32::from_be_bytes(*word))
        .find(|word| !matches!(*word, 0 | 0xffff_fffe..))
        .unwrap_or(1)
}

/// The name of something that a guest needs from its host, such as `firewall` or `monitor`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ControlName(pub(crate) String);

impl ControlName {
    /// The control that Lictor itself provides.
    pub const FIREWALL: &'static str = "firewall";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ControlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Guests and what they need from their hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRequirement {
    /// The guests.
    pub guests: Selector,
    /// What they need.
    pub controls: Vec<ControlName>,
}

/// What an owner chose for one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureChoice {
    /// The cause.
    pub cause: Cause,
    /// The guests.
    pub guests: Selector,
    /// What happens then.
    pub choice: Choice,
    /// Who chose it.
    pub owner: String,
    /// Why.
    pub justification: Option<String>,
    /// The last day on which it holds; the default holds after that.
    pub expires: Option<Date>,
    /// The line on which it stands, from 1.
    pub line: usize,
}

/// Guests for which the policy is only observed: what it would deny passes and is reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The guests.
    pub guests: Selector,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub justification: Option<String>,
    /// The last day on which it holds; the policy is enforced after that.
    pub expires: Option<Date>,
    /// The line on which it stands, from 1.
    pub line: usize,
}

impl Policy {
    /// Whether the policy is only observed for a guest on a day. Nobody answers for a guest in
    /// quarantine, so it never is.
    #[must_use]
    pub fn observes(&self, labels: &Labels, date: Date) -> bool {
        let holds = |one: &Observation| {
            one.expires.is_none_or(|expires| date <= expires)
                && one.guests.holds(Some(labels), &|_| false)
        };
        !self.quarantines(labels) && self.observed.iter().any(holds)
    }

    /// Every rule with its tier, in the order of the text.
    pub fn rules(&self) -> impl Iterator<Item = (&Tier, &Rule)> {
        self.tiers
            .iter()
            .flat_map(|tier| tier.rules.iter().map(move |rule| (tier, rule)))
    }

    /// Whether a guest is in quarantine: a required label is missing, or a label has a value that
    /// its declaration does not list. Nothing is allowed from or to such a guest. A host needs no
    /// label but its own.
    #[must_use]
    pub fn quarantines(&self, labels: &Labels) -> bool {
        let host = labels.contains_key(HOST_LABEL);
        // An imported policy may have thousands of labels that say nothing about quarantine.
        let asks = |(_, label): &(&String, &Label)| label.required || label.values.is_some();
        self.labels.iter().filter(asks).any(|(name, label)| {
            match (labels.get(name), &label.values) {
                (None, _) => label.required && !host,
                (Some(value), Some(values)) => !values.contains(value),
                (Some(_), None) => false,
            }
        })
    }

    /// Whether an end is in a sensitive scope.
    #[must_use]
    pub fn is_sensitive(&self, end: &crate::End) -> bool {
        self.scopes
            .values()
            .any(|scope| scope.sensitive && scope.selector.matches(end, &self.sets))
    }
}
