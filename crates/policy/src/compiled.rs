//! The compiled policy: what is signed, sent, loaded and read back. The same policy, label sets and
//! date give the same bytes, whatever the order of the label sets.

use crate::{
    Action, At, Cause, Choice, ControlName, Date, Labels, Log, Mode, Moment, OnExpiry, Window,
};
use ipnet::IpNet;
use lictor_types::{AtomId, AtomRange, Digest, IdentityId, RuleId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A policy as tables. Every list is sorted; look-ups rely on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compiled {
    /// The policy's name.
    pub policy: String,
    /// Its version, counted by its authors.
    pub version: u64,
    /// The digest of its text.
    pub source: Digest,
    /// The day for which it was compiled.
    pub date: Date,
    /// Every rule of the text, by id; [`RuleInfo::order`] is its place in the text.
    pub rules: Vec<RuleInfo>,
    /// Every class of guests and outside addresses, by id, without [`IdentityId::WORLD`].
    pub identities: Vec<Identity>,
    /// Outside addresses: the longest prefix that contains an address gives its class.
    pub prefixes: Vec<PrefixRow>,
    /// Runs of ports that no rule tells apart.
    pub atoms: Vec<AtomRange>,
    /// The selectors that tell ends apart, as text, sorted.
    pub selectors: Vec<String>,
    /// The selectors that match [`IdentityId::WORLD`], by their places.
    pub world: Vec<u32>,
    /// The services that rules name, by their texts.
    pub services: Vec<ServiceRow>,
    /// The rules in force, in the order of evaluation. [`crate::Tables`] makes the decisions of a
    /// class of them.
    pub lines: Vec<LineRow>,
    /// Whether packets that no rule names are reported as events.
    pub baseline_log: Log,
    /// What guests need from their hosts, by identity.
    pub controls: Vec<ControlRow>,
    /// Explicit choices, by identity and cause. Absent means the cause's default.
    pub choices: Vec<ChoiceRow>,
    /// Classes for which the policy is only observed, by identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observed: Vec<ObserveRow>,
    /// Computed scopes and who is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub computed: Vec<ScopeMembers>,
    /// Statements of the policy. Kept, not proved.
    pub intents: Vec<IntentText>,
    /// What had passed its last day when this was compiled.
    pub expired: Vec<Expired>,
}

/// A rule in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineRow {
    /// Which rule.
    pub rule: RuleId,
    /// Of each ordered stage the first line that matches decides, or passes to the next stage. The
    /// largest number is the stage of application rules, of which any allows.
    pub stage: u32,
    /// Who begins: a selector, by its place.
    pub from: u32,
    /// Who is asked.
    pub to: u32,
    /// The ports: a service, by its place.
    pub service: u32,
}

/// The atoms of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRow {
    /// Its text.
    pub service: String,
    /// What it covers, sorted.
    pub atoms: Vec<AtomId>,
}

/// A rule, for people and reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleInfo {
    /// Its number.
    pub id: RuleId,
    /// `tier/rule`.
    pub name: String,
    /// Its tier.
    pub tier: String,
    /// Its place in the text, from 0.
    pub order: u32,
    /// What it does.
    pub action: Action,
    /// Who begins the session, as text with the scopes written out.
    pub from: String,
    /// Who is asked.
    pub to: String,
    /// The ports.
    pub service: String,
    /// At which end it speaks.
    #[serde(default, skip_serializing_if = "At::is_both")]
    pub at: At,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Why it exists.
    pub justification: Option<String>,
    /// The clauses that it serves.
    pub requirements: Vec<String>,
    /// Days between reviews.
    pub review_days: Option<u32>,
    /// Its last day.
    pub expires: Option<Date>,
    /// The days of the week on which it allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<Window>,
    /// What is reported.
    pub log: Log,
    /// Events that it reports of one vnic in one second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_limit: Option<u16>,
    /// New sessions that it allows one vnic in one second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Whether its tier is only observed.
    pub mode: Mode,
    /// What happens to it after its last day.
    pub on_expiry: OnExpiry,
    /// Whether one of its ends may be in a sensitive scope.
    pub touches_sensitive: bool,
    /// The file in which it stands, if the policy has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line on which it begins, from 1.
    pub line: u32,
    /// Its source text.
    pub text: String,
}

impl RuleInfo {
    /// Whether another one of the same name says the same: neither the place of a rule in the text
    /// nor the layout of it means anything.
    #[must_use]
    pub fn means_the_same(&self, other: &Self) -> bool {
        let placed = Self {
            order: other.order,
            line: other.line,
            file: other.file.clone(),
            text: other.text.clone(),
            ..self.clone()
        };
        placed == *other
    }
}

/// A class of guests or of outside addresses that the policy cannot tell apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Its number, made of what is true of its members.
    pub id: IdentityId,
    /// The label sets that have it, sorted; none for outside addresses.
    pub labels: Vec<Labels>,
    /// Whether its guests lack a required label: nothing is allowed from or to them.
    pub quarantine: bool,
    /// Whether it is in a sensitive scope.
    pub sensitive: bool,
    /// The selectors that match it, by their places in [`Compiled::selectors`].
    pub selectors: Vec<u32>,
}

/// Outside addresses and their class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixRow {
    /// The addresses, unless a longer prefix contains them too.
    pub prefix: IpNet,
    /// Their class; [`IdentityId::WORLD`] where a longer prefix takes addresses out of a set again.
    pub identity: IdentityId,
}

/// What guests of an identity need from their hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlRow {
    /// The class.
    pub identity: IdentityId,
    /// What they need, sorted.
    pub controls: Vec<ControlName>,
}

/// What the owner of an identity's guests chose for a cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChoiceRow {
    /// The class.
    pub identity: IdentityId,
    /// The cause.
    pub cause: Cause,
    /// What happens then.
    pub choice: Choice,
    /// Who chose it.
    pub owner: String,
    /// Why.
    pub justification: Option<String>,
    /// Its last day.
    pub expires: Option<Date>,
}

/// A class for which the policy is only observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserveRow {
    /// The class.
    pub identity: IdentityId,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub justification: Option<String>,
    /// Its last day.
    pub expires: Option<Date>,
}

/// Who is in a computed scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeMembers {
    /// The scope.
    pub scope: String,
    /// What it was computed to select, as text.
    pub selector: String,
    /// The classes of guests in it, sorted.
    pub members: Vec<IdentityId>,
}

/// An intent as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentText {
    /// Its name.
    pub name: String,
    /// What it says, in the language's own words.
    pub text: String,
}

/// Something that had passed its last day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expired {
    /// The rule's name, `when CAUSE for SELECTOR` for a choice, or `observe SELECTOR`.
    pub what: String,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Its last day.
    pub expires: Date,
    /// What became of it.
    pub action: ExpiredAction,
    /// What nothing else allows: for a rule that was dropped what that has cut, for one that was
    /// kept what closing it would cut. The first of them, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<Cut>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_cuts: usize,
}

/// Sessions that only one rule allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Who begins them; [`IdentityId::WORLD`] and prefixes' classes are outside.
    pub from: IdentityId,
    /// Who is asked.
    pub to: IdentityId,
    /// On which ports.
    pub service: String,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What became of something that had passed its last day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpiredAction {
    /// It has no effect any more.
    Dropped,
    /// Its tier says that it goes on, with an alarm.
    KeptWithAlarm,
}

impl Compiled {
    /// The class of guests with exactly these labels. `None` if no such guest was compiled in: the
    /// binding must then be refused.
    #[must_use]
    pub fn identity_of(&self, labels: &Labels) -> Option<IdentityId> {
        self.identities
            .iter()
            .find(|identity| identity.labels.binary_search(labels).is_ok())
            .map(|identity| identity.id)
    }

    /// The class with this number. `None` for [`IdentityId::WORLD`] and unknown numbers.
    #[must_use]
    pub fn identity(&self, id: IdentityId) -> Option<&Identity> {
        let index = self
            .identities
            .binary_search_by_key(&id, |identity| identity.id)
            .ok()?;
        self.identities.get(index)
    }

    /// The selectors that match a class, as text.
    pub fn selectors_of<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = &'a str> {
        let places = identity.selectors.iter();
        places.filter_map(|place| self.selectors.get(*place as usize).map(String::as_str))
    }

    /// The rule with this number. `None` for [`RuleId::DEFAULT`] and unknown numbers.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&RuleInfo> {
        let index = self.rules.binary_search_by_key(&id, |rule| rule.id).ok()?;
        self.rules.get(index)
    }

    /// What happens to guests of this class when protection is impaired: the explicit choice, or
    /// the cause's default. Whoever knows the day asks [`Self::choice_on`].
    #[must_use]
    pub fn choice(&self, identity: IdentityId, cause: Cause) -> Choice {
        self.choice_row(identity, cause)
            .map_or(cause.default_choice(), |row| row.choice)
    }

    /// As [`Self::choice`], with choices past their last day replaced by the default.
    #[must_use]
    pub fn choice_on(&self, identity: IdentityId, cause: Cause, date: Date) -> Choice {
        self.choice_row(identity, cause)
            .filter(|row| row.expires.is_none_or(|expires| date <= expires))
            .map_or(cause.default_choice(), |row| row.choice)
    }

    /// The explicit choice for a class and cause, with its owner and last day.
    #[must_use]
    pub fn choice_row(&self, identity: IdentityId, cause: Cause) -> Option<&ChoiceRow> {
        let key = (identity, cause);
        let found = self
            .choices
            .binary_search_by_key(&key, |row| (row.identity, row.cause));
        found.ok().and_then(|index| self.choices.get(index))
    }

    /// By whose leave the policy is only observed for guests of this class on a day, if it is.
    #[must_use]
    pub fn observed_on(&self, identity: IdentityId, date: Date) -> Option<&ObserveRow> {
        let found = self
            .observed
            .binary_search_by_key(&identity, |row| row.identity);
        let row = found.ok().and_then(|index| self.observed.get(index));
        row.filter(|row| row.expires.is_none_or(|expires| date <= expires))
    }

    /// The rules that decide nothing now: their last day is over and their tier does not keep them,
    /// or their window is not open.
    #[must_use]
    pub fn ended_by(&self, now: impl Into<Moment>) -> BTreeSet<RuleId> {
        let now = now.into();
        let over = |rule: &RuleInfo| rule.expires.is_some_and(|expires| now.date > expires);
        let ended = self.rules.iter().filter(|rule| {
            (rule.on_expiry == OnExpiry::Drop && over(rule))
                || rule.during.is_some_and(|window| !window.is_open(now))
        });
        ended.map(|rule| rule.id).collect()
    }

    /// What guests of this class need from their hosts.
    #[must_use]
    pub fn required_controls(&self, identity: IdentityId) -> &[ControlName] {
        let found = self
            .controls
            .binary_search_by_key(&identity, |row| row.identity);
        found
            .ok()
            .and_then(|index| self.controls.get(index))
            .map_or(&[], |row| &row.controls)
    }

    /// The one encoding that is hashed and signed.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a compiled policy has only string keys and no floats")
    }

    /// The digest of the canonical bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical_bytes())
    }
}
