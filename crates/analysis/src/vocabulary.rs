//! What selectors ask of a guest's labels, in numbers, and selectors filed by what they ask for: of
//! ten thousand only those are looked at that a guest with given labels can match at all.

use crate::universe::Weak;
use lictor_policy::{HOST_LABEL, Labels, Policy, Selector};
use std::collections::{BTreeSet, HashMap};

/// The interned labels that selectors ask for: (label, value), sorted. 0 is every other value.
/// Where a guest's hosts enforce nothing, what they lack stands at the end.
pub(crate) type Key = Vec<(u32, u32)>;
/// In a label's place, of what the hosts lack.
pub(crate) const WEAK: u32 = u32::MAX;

/// What selectors ask for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vocabulary {
    pub(crate) labels: HashMap<String, (u32, HashMap<String, u32>)>,
    pub(crate) sets: BTreeSet<String>,
}

impl Vocabulary {
    pub(crate) fn of(policies: &[&Policy]) -> Self {
        let mut vocabulary = Self::default();
        vocabulary.label(HOST_LABEL, None);
        for policy in policies {
            for selector in selectors(policy) {
                vocabulary.add(selector);
            }
            // Whoever is in quarantine is told apart from who is not.
            for (name, label) in &policy.labels {
                if label.required || label.values.is_some() {
                    vocabulary.label(name, None);
                }
                for value in label.values.iter().flatten() {
                    vocabulary.label(name, Some(value));
                }
            }
        }
        vocabulary
    }

    fn label(&mut self, name: &str, value: Option<&str>) {
        let next = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
        if !self.labels.contains_key(name) {
            self.labels.insert(name.to_owned(), (next, HashMap::new()));
        }
        if let (Some(value), Some((_, values))) = (value, self.labels.get_mut(name))
            && !values.contains_key(value)
        {
            let next = u32::try_from(values.len() + 1).unwrap_or(u32::MAX);
            values.insert(value.to_owned(), next);
        }
    }

    fn add(&mut self, selector: &Selector) {
        match selector {
            Selector::Label { name, value } => self.label(name, Some(value)),
            Selector::Has(name) => self.label(name, None),
            Selector::Set(name) => {
                if !self.sets.contains(name) {
                    self.sets.insert(name.clone());
                }
            }
            Selector::Not(inner) => self.add(inner),
            Selector::All(parts) | Selector::Either(parts) => {
                parts.iter().for_each(|part| self.add(part));
            }
            Selector::Any
            | Selector::Guests
            | Selector::Hosts
            | Selector::Outside
            | Selector::Computed(_) => {}
        }
    }

    /// Looks a selector's names up; `None` if it asks for what is not known.
    pub(crate) fn look_up(&self, selector: &Selector) -> Option<Expr> {
        let all = |parts: &[Selector]| {
            let parts = parts.iter().map(|part| self.look_up(part));
            parts.collect::<Option<Vec<_>>>()
        };
        Some(match selector {
            Selector::Any => Expr::All,
            Selector::Guests => Expr::Guests,
            Selector::Hosts => Expr::Devices,
            Selector::Outside => Expr::Outside,
            Selector::Computed(_) => Expr::Nobody,
            Selector::Label { name, value } => {
                let (label, values) = self.labels.get(name)?;
                Expr::Label(*label, *values.get(value)?)
            }
            Selector::Has(name) => Expr::Has(self.labels.get(name)?.0),
            Selector::Set(name) => Expr::Set(self.sets.get(name)?.clone()),
            Selector::Not(inner) => Expr::Not(Box::new(self.look_up(inner)?)),
            Selector::All(parts) => Expr::And(all(parts)?),
            Selector::Either(parts) => Expr::Or(all(parts)?),
        })
    }

    pub(crate) fn key(&self, labels: &Labels, weak: Weak) -> Key {
        let known = labels.iter().filter_map(|(name, value)| {
            let (label, values) = self.labels.get(name)?;
            Some((*label, values.get(value).copied().unwrap_or_default()))
        });
        let mut key: Key = known.collect();
        key.sort_unstable();
        let lack = u32::from(weak.now) | u32::from(weak.some) << 1 | u32::from(weak.every) << 2;
        if lack > 0 {
            key.push((WEAK, lack));
        }
        key
    }
}

/// Every selector of a policy, intents included.
fn selectors(policy: &Policy) -> impl Iterator<Item = &Selector> {
    let rules = policy.rules().flat_map(|(_, rule)| [&rule.from, &rule.to]);
    let scopes = policy.scopes.values().map(|scope| &scope.selector);
    let controls = policy.controls.iter().map(|one| &one.guests);
    let choices = policy.choices.iter().map(|one| &one.guests);
    let observed = policy.observed.iter().map(|one| &one.guests);
    let intents = policy.intents.iter().flat_map(|one| one.claim.selectors());
    rules
        .chain(scopes)
        .chain(controls)
        .chain(choices)
        .chain(observed)
        .chain(intents)
}

/// A selector with its names looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    All,
    Guests,
    Devices,
    Outside,
    Nobody,
    Label(u32, u32),
    Has(u32),
    Set(String),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

impl Expr {
    /// Whether it holds for a guest with these labels.
    pub(crate) fn holds(&self, key: &Key, device: bool) -> bool {
        match self {
            Self::All => true,
            Self::Guests => !device,
            Self::Devices => device,
            Self::Outside | Self::Nobody | Self::Set(_) => false,
            Self::Label(label, value) => key.contains(&(*label, *value)),
            Self::Has(label) => key.iter().any(|(known, _)| known == label),
            Self::Not(inner) => !inner.holds(key, device),
            Self::And(parts) => parts.iter().all(|part| part.holds(key, device)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(key, device)),
        }
    }
}

/// What a guest must have to match an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    /// No guest matches.
    Never,
    /// Nothing in particular.
    Anything,
    /// At least one of these: a label with a value, or with any (`None`).
    OneOf(Vec<(u32, Option<u32>)>),
}

/// Expressions by what a guest must have to match them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filed {
    under: HashMap<(u32, Option<u32>), Vec<u32>>,
    /// Those that may match whatever a guest has.
    open: Vec<u32>,
}

impl Filed {
    /// Files an expression by its number. Of several needs that which fewest guests meet counts:
    /// `guests` says how many have a label.
    pub(crate) fn file(
        &mut self,
        (number, expr): (u32, &Expr),
        guests: impl Fn(u32, Option<u32>) -> usize,
    ) {
        match need(expr, &guests) {
            Need::Never => {}
            Need::Anything => self.open.push(number),
            Need::OneOf(needs) => {
                for one in needs {
                    self.under.entry(one).or_default().push(number);
                }
            }
        }
    }

    /// The numbers of all expressions that a guest with these labels may match, each once.
    pub(crate) fn candidates(&self, key: &Key) -> Vec<u32> {
        let pairs = key
            .iter()
            .flat_map(|(label, value)| [(*label, Some(*value)), (*label, None)]);
        let filed = pairs.filter_map(|pair| self.under.get(&pair)).flatten();
        let mut found: Vec<u32> = filed.chain(&self.open).copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn need(expr: &Expr, guests: &impl Fn(u32, Option<u32>) -> usize) -> Need {
    match expr {
        Expr::All | Expr::Guests | Expr::Devices | Expr::Not(_) => Need::Anything,
        Expr::Outside | Expr::Nobody | Expr::Set(_) => Need::Never,
        Expr::Label(label, value) => Need::OneOf(vec![(*label, Some(*value))]),
        Expr::Has(label) => Need::OneOf(vec![(*label, None)]),
        Expr::And(parts) => {
            let weight = |need: &Need| match need {
                Need::Never => 0,
                Need::Anything => usize::MAX,
                Need::OneOf(needs) => {
                    let each = needs.iter().map(|(label, value)| guests(*label, *value));
                    each.sum::<usize>().saturating_add(1)
                }
            };
            let parts = parts.iter().map(|part| need(part, guests));
            parts.min_by_key(weight).unwrap_or(Need::Anything)
        }
        Expr::Or(parts) => {
            let mut all = Vec::new();
            for part in parts {
                match need(part, guests) {
                    Need::Never => {}
                    Need::Anything => return Need::Anything,
                    Need::OneOf(needs) => all.extend(needs),
                }
            }
            match all.is_empty() {
                true => Need::Never,
                false => Need::OneOf(all),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every expression of two levels over two labels, every guest: whoever matches is filed so
    /// that the match is found.
    #[test]
    fn whatever_a_guest_matches_is_among_its_candidates() {
        let mut level = vec![
            Expr::All,
            Expr::Guests,
            Expr::Devices,
            Expr::Outside,
            Expr::Nobody,
            Expr::Label(0, 1),
            Expr::Label(1, 1),
            Expr::Label(1, 2),
            Expr::Has(1),
            Expr::Set("s".into()),
        ];
        for _ in 0..2 {
            let some: Vec<Expr> = level.iter().step_by(level.len() / 9).cloned().collect();
            for one in &some {
                level.push(Expr::Not(Box::new(one.clone())));
                for two in &some {
                    level.push(Expr::And(vec![one.clone(), two.clone()]));
                    level.push(Expr::Or(vec![one.clone(), two.clone()]));
                }
            }
        }
        let mut filed = Filed::default();
        for (number, expr) in (0..).zip(&level) {
            // The second label is the rarer one.
            filed.file((number, expr), |label, _| 2 - label as usize);
        }
        let options = |label| [None, Some((label, 0)), Some((label, 1)), Some((label, 2))];
        for first in options(0) {
            for second in options(1) {
                let key: Key = first.into_iter().chain(second).collect();
                let candidates = filed.candidates(&key);
                for (number, expr) in (0..).zip(&level) {
                    let found = candidates.binary_search(&number).is_ok();
                    let holds = [false, true].map(|device| expr.holds(&key, device));
                    assert!(found || holds == [false; 2], "{expr:?} of {key:?}");
                }
            }
        }
    }
}
