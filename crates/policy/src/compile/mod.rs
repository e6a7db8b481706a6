//! From a resolved policy and the label sets of the estate to tables.
//!
//! Guests with equal truth over the policy's selectors are one identity, ports that no rule tells
//! apart are one atom, and a table row says what happens between two identities on one atom. The
//! size of a table is bounded before it is built: a policy that would not fit is refused with the
//! rules to blame.

mod again;
mod atoms;
mod cuts;
mod decisions;
mod edit;
mod identities;

pub use again::Compiler;

use crate::{
    ChoiceRow, Compiled, ControlName, ControlRow, Date, Expired, ExpiredAction, Identity,
    IntentText, LABEL_SETS_MAX, Labels, ObserveRow, OnExpiry, Policy, Rule, RuleInfo, ScopeMembers,
    Selector, Tier,
};
use decisions::Lines;
use identities::Classes;
use lictor_types::IdentityId;
use std::collections::{BTreeMap, BTreeSet};

/// What a compilation takes besides the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileInput {
    /// The label sets that guests may have, in any order. Repetitions mean nothing.
    pub label_sets: Vec<Labels>,
    /// The day: rules past their last day are dropped or kept as their tier says.
    pub date: Date,
}

/// Why a policy has no tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Too many label sets.
    #[error("the estate has {found} different label sets; at most {max} can be compiled")]
    LabelSets {
        /// How many there are.
        found: usize,
        /// How many fit.
        max: usize,
    },
    /// Two rules have the same number.
    #[error("rules {one} and {other} get the same number {number}; rename one of them")]
    RuleCollision {
        /// A rule.
        one: String,
        /// Another one.
        other: String,
        /// Their number.
        number: u32,
    },
    /// Two identities have the same number.
    #[error(
        "two identities get the same number {number}: one matches [{one}], the other [{other}]; \
         change or rename a label value that only one of them has"
    )]
    IdentityCollision {
        /// What one of them matches.
        one: String,
        /// What the other matches.
        other: String,
        /// Their number.
        number: u32,
    },
    /// The services cut the ports into too many parts.
    #[error(
        "the services of this policy need {found} port atoms or more; at most {max} fit; \
         use fewer different port ranges"
    )]
    Atoms {
        /// How many are needed, as far as they were counted.
        found: usize,
        /// How many fit.
        max: usize,
    },
    /// The decisions of one identity would not fit on any host.
    #[error(
        "guests with labels {labels:?} need {found} decisions; at most {max} fit on one host; \
         narrow the rules that need most of them: {}", blame.join(", ")
    )]
    Decisions {
        /// Labels of such a guest.
        labels: Labels,
        /// How many rows are needed, or would be computed.
        found: usize,
        /// How many fit.
        max: usize,
        /// The rules that need most, with their number of rows.
        blame: Vec<String>,
    },
    /// Two rules with different windows of time allow the same.
    #[error(
        "rules {one} and {other} allow the same on different days; a table holds one of them: \
         give both the same window, or none to one of them"
    )]
    Windows {
        /// A rule.
        one: String,
        /// Another one.
        other: String,
    },
    /// The lists that were made do not belong together: a fault of the compiler.
    #[error(transparent)]
    Broken(crate::BrokenTables),
}

/// Compiles a policy.
///
/// # Errors
/// [`CompileError`] if a limit is passed or two names get the same number. Nothing is ever cut.
pub fn compile(policy: &Policy, input: &CompileInput) -> Result<Compiled, CompileError> {
    let label_sets: BTreeSet<&Labels> = input.label_sets.iter().collect();
    let found = label_sets.len();
    if found > LABEL_SETS_MAX {
        return Err(CompileError::LabelSets {
            found,
            max: LABEL_SETS_MAX,
        });
    }
    let rules = rule_table(policy)?;
    let classes = Classes::of(policy, &label_sets)?;
    let services: Vec<_> = policy.rules().map(|(_, rule)| &rule.service).collect();
    let atoms = atoms::cut(&services)?;
    let Lines { lines, services } = Lines::of(policy, input.date, &classes.basis, &atoms);
    let mut compiled = Compiled {
        policy: policy.name.clone(),
        version: policy.version,
        source: policy.source,
        date: input.date,
        rules,
        controls: Vec::new(),
        identities: classes.identities(),
        world: classes.world(),
        selectors: classes.basis.texts,
        services,
        lines,
        prefixes: classes.prefixes,
        atoms: atoms.ranges,
        baseline_log: policy.baseline_log,
        choices: Vec::new(),
        observed: Vec::new(),
        computed: Vec::new(),
        intents: Vec::new(),
        expired: Vec::new(),
    };
    standing(policy, &mut compiled)?;
    Ok(compiled)
}

/// Puts in place what follows from classes and lines, after it is known that their tables fit.
fn standing(policy: &Policy, compiled: &mut Compiled) -> Result<(), CompileError> {
    decisions::check(compiled)?;
    let guests = Guests {
        identities: &compiled.identities,
        selectors: &compiled.selectors,
    };
    let (choices, mut expired) = choice_rows(policy, compiled.date, &guests);
    let (observed, over) = observe_rows(policy, compiled.date, &guests);
    let controls = control_rows(policy, &guests);
    let computed = computed_rows(policy, &guests);
    expired.extend(over);
    expired.extend(expired_rules(policy, compiled)?);
    expired.sort();
    let intent = |intent: &crate::Intent| IntentText {
        name: intent.name.clone(),
        text: intent.statement(),
    };
    compiled.intents = policy.intents.iter().map(intent).collect();
    (compiled.choices, compiled.observed) = (choices, observed);
    (compiled.controls, compiled.computed) = (controls, computed);
    compiled.expired = expired;
    Ok(())
}

/// The classes of guests, and the texts of the selectors that match them.
struct Guests<'a> {
    identities: &'a [Identity],
    selectors: &'a [String],
}

impl<'a> Guests<'a> {
    /// Those that a selector of the policy matches.
    fn matching(&self, selector: &Selector) -> impl Iterator<Item = &'a Identity> {
        let place = place(self.selectors, &selector.to_string());
        let guests = self.identities.iter().filter(|one| !one.labels.is_empty());
        guests.filter(move |one| {
            place.is_some_and(|place| one.selectors.binary_search(&place).is_ok())
        })
    }
}

/// The place of a text in a sorted list.
fn place(texts: &[String], text: &str) -> Option<u32> {
    let found = texts.binary_search_by(|known| known.as_str().cmp(text));
    found.ok().and_then(|place| u32::try_from(place).ok())
}

fn rule_table(policy: &Policy) -> Result<Vec<RuleInfo>, CompileError> {
    let mut table: BTreeMap<u32, RuleInfo> = BTreeMap::new();
    for (order, (tier, rule)) in (0..).zip(policy.rules()) {
        let info = rule_info(tier, order, rule);
        if let Some(known) = table.insert(rule.id.0, info) {
            let (one, other, number) = (known.name, rule.name.clone(), rule.id.0);
            return Err(CompileError::RuleCollision { one, other, number });
        }
    }
    Ok(table.into_values().collect())
}

fn rule_info(tier: &Tier, order: u32, rule: &Rule) -> RuleInfo {
    RuleInfo {
        id: rule.id,
        name: rule.name.clone(),
        tier: tier.name.clone(),
        order,
        action: rule.action,
        from: rule.from.to_string(),
        to: rule.to.to_string(),
        service: rule.service.to_string(),
        at: rule.at,
        owner: rule.owner.clone(),
        justification: rule.justification.clone(),
        requirements: rule.requirements.clone(),
        review_days: rule.review_days,
        expires: rule.expires,
        during: rule.during,
        log: rule.log,
        log_limit: rule.log_limit,
        limit: rule.limit,
        mode: tier.mode,
        on_expiry: tier.on_expiry,
        touches_sensitive: rule.touches_sensitive,
        file: rule.file.clone(),
        line: u32::try_from(rule.line).unwrap_or(u32::MAX),
        text: rule.text.clone(),
    }
}

fn expired_rules(policy: &Policy, compiled: &Compiled) -> Result<Vec<Expired>, CompileError> {
    let rules = policy.rules();
    let rules: Vec<_> = rules
        .filter(|(_, rule)| rule.expired(compiled.date))
        .collect();
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let cutter = cuts::Cutter::of(policy, compiled)?;
    let expired = rules.into_iter().filter_map(|(tier, rule)| {
        let (cuts, more_cuts) = cutter.cuts((tier, rule));
        Some(Expired {
            what: rule.name.clone(),
            owner: rule.owner.clone(),
            expires: rule.expires?,
            action: match tier.on_expiry {
                OnExpiry::Drop => ExpiredAction::Dropped,
                OnExpiry::KeepAndAlarm => ExpiredAction::KeptWithAlarm,
            },
            cuts,
            more_cuts,
        })
    });
    Ok(expired.collect())
}

fn control_rows(policy: &Policy, guests: &Guests<'_>) -> Vec<ControlRow> {
    let mut rows: BTreeMap<IdentityId, BTreeSet<ControlName>> = BTreeMap::new();
    for requirement in &policy.controls {
        for class in guests.matching(&requirement.guests) {
            rows.entry(class.id)
                .or_default()
                .extend(requirement.controls.iter().cloned());
        }
    }
    let row = |(identity, controls): (_, BTreeSet<_>)| ControlRow {
        identity,
        controls: controls.into_iter().collect(),
    };
    rows.into_iter().map(row).collect()
}

fn computed_rows(policy: &Policy, guests: &Guests<'_>) -> Vec<ScopeMembers> {
    let scopes = policy
        .scopes
        .iter()
        .filter(|(_, scope)| scope.computed.is_some());
    let row = |(name, scope): (&String, &crate::Scope)| {
        let members = guests.matching(&scope.selector);
        ScopeMembers {
            scope: name.clone(),
            selector: scope.selector.to_string(),
            members: members.map(|class| class.id).collect(),
        }
    };
    scopes.map(row).collect()
}

/// Where several statements match a guest, the one that lasts longest holds.
fn observe_rows(
    policy: &Policy,
    date: Date,
    guests: &Guests<'_>,
) -> (Vec<ObserveRow>, Vec<Expired>) {
    let mut rows: BTreeMap<IdentityId, ObserveRow> = BTreeMap::new();
    let mut gone = Vec::new();
    for one in &policy.observed {
        if let Some(expires) = one.expires.filter(|expires| date > *expires) {
            gone.push(Expired {
                what: format!("observe {}", one.guests),
                owner: Some(one.owner.clone()),
                expires,
                action: ExpiredAction::Dropped,
                cuts: Vec::new(),
                more_cuts: 0,
            });
            continue;
        }
        let matched = guests.matching(&one.guests);
        for class in matched.filter(|class| !class.quarantine) {
            let row = ObserveRow {
                identity: class.id,
                owner: one.owner.clone(),
                justification: one.justification.clone(),
                expires: one.expires,
            };
            let known = rows.entry(class.id).or_insert_with(|| row.clone());
            let lasts = |row: &ObserveRow| (row.expires.is_none(), row.expires);
            if lasts(&row) > lasts(known) {
                *known = row;
            }
        }
    }
    (rows.into_values().collect(), gone)
}

/// Where several choices match a guest, the strictest holds; among equals the one that lasts
/// longest. A guest in quarantine has no known owner: for it nothing weaker than the default holds.
fn choice_rows(policy: &Policy, date: Date, guests: &Guests<'_>) -> (Vec<ChoiceRow>, Vec<Expired>) {
    let mut rows: BTreeMap<_, ChoiceRow> = BTreeMap::new();
    let mut gone = Vec::new();
    for choice in &policy.choices {
        if let Some(expires) = choice.expires.filter(|expires| date > *expires) {
            gone.push(Expired {
                what: format!("when {} for {}", choice.cause, choice.guests),
                owner: Some(choice.owner.clone()),
                expires,
                action: ExpiredAction::Dropped,
                cuts: Vec::new(),
                more_cuts: 0,
            });
            continue;
        }
        let rank = |row: &ChoiceRow| {
            let lasting = row
                .expires
                .map_or((0, None), |expires| (1, Some(std::cmp::Reverse(expires))));
            (row.cause.rank(row.choice), lasting, row.owner.clone())
        };
        for class in guests.matching(&choice.guests) {
            if class.quarantine && choice.cause.weakens(choice.choice) {
                continue;
            }
            let row = ChoiceRow {
                identity: class.id,
                cause: choice.cause,
                choice: choice.choice,
                owner: choice.owner.clone(),
                justification: choice.justification.clone(),
                expires: choice.expires,
            };
            let known = rows
                .entry((class.id, choice.cause))
                .or_insert_with(|| row.clone());
            if rank(&row) < rank(known) {
                *known = row;
            }
        }
    }
    (rows.into_values().collect(), gone)
}
