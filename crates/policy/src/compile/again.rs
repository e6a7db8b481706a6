//! A compiler that remembers: after a change of some rules or label sets, only what depends on
//! them is made again. What it gives is what [`super::compile`] gives, byte for byte; where too
//! much has changed, or something is wrong, that is asked.

use super::decisions::{in_force, service_rows};
use super::edit::{Basis, Outside, Regroup};
use super::{CompileError, CompileInput, atoms, compile, place, rule_info, standing};
use crate::{
    Compiled, FailureChoice, LABEL_SETS_MAX, Labels, LineRow, Observation, Policy, Rule, Service,
    Tier,
};
use lictor_types::RuleId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Rules that a change may touch before all is compiled anew.
const RULES_CHANGED_MAX: usize = 64;
/// Label sets that a change may touch before all is compiled anew.
const LABEL_SETS_CHANGED_MAX: usize = 32;

/// Compiles one version of a policy after another.
#[derive(Debug, Default)]
pub struct Compiler {
    last: Option<Last>,
    full: usize,
}

/// A result, and what it was made of.
#[derive(Debug)]
struct Last {
    policy: Arc<Policy>,
    label_sets: Vec<Labels>,
    compiled: Compiled,
    basis: Basis,
    services: BTreeMap<Service, usize>,
    outside: Outside,
}

impl Compiler {
    /// One that knows nothing yet: its first compilation is a full one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Compiles a policy.
    ///
    /// # Errors
    /// As [`super::compile`]; the next compilation is then a full one.
    pub fn compile(
        &mut self,
        policy: &Arc<Policy>,
        input: &CompileInput,
    ) -> Result<&Compiled, CompileError> {
        let last = self.last.take();
        let next = match last.and_then(|last| last.changed(policy, input)) {
            Some(next) => next,
            None => {
                self.full += 1;
                Last::anew(policy, input)?
            }
        };
        Ok(&self.last.insert(next).compiled)
    }

    /// How many compilations were full ones.
    #[must_use]
    pub const fn full(&self) -> usize {
        self.full
    }
}

impl Last {
    fn anew(policy: &Arc<Policy>, input: &CompileInput) -> Result<Self, CompileError> {
        let compiled = compile(policy, input)?;
        let mut services: BTreeMap<Service, usize> = BTreeMap::new();
        for (_, rule) in policy.rules() {
            *services.entry(rule.service.clone()).or_default() += 1;
        }
        let (basis, outside) = Basis::of(policy);
        Ok(Self {
            policy: policy.clone(),
            label_sets: input.label_sets.clone(),
            compiled,
            basis,
            services,
            outside,
        })
    }

    /// Nothing if all has to be compiled anew, be it to say what is wrong.
    fn changed(mut self, policy: &Arc<Policy>, input: &CompileInput) -> Option<Self> {
        if self.compiled.date != input.date || !same_frame(&self.policy, policy) {
            return None;
        }
        let old = self.policy.clone();
        let rules = RulesChange::between(&old, policy)?;
        let labels = self.labels(&input.label_sets)?;
        let named = |rules: &[(&Tier, &Rule)]| -> Vec<crate::Selector> {
            let ends = rules
                .iter()
                .flat_map(|(_, rule)| [rule.from.clone(), rule.to.clone()]);
            ends.collect()
        };
        let selectors = &mut self.compiled.selectors;
        let places = self
            .basis
            .edit(selectors, &named(&rules.gone), &named(&rules.come))?;
        let mut regroup = Regroup {
            policy,
            basis: &self.basis,
            places: &places,
            outside: &mut self.outside,
        };
        regroup.run(&mut self.compiled, &labels)?;
        let sets = self.compiled.identities.iter().map(|one| one.labels.len());
        if sets.sum::<usize>() > LABEL_SETS_MAX {
            return None;
        }
        let services = self.cut(&rules)?;
        self.rules(&rules, policy)?;
        self.lines(&rules, policy, |line| {
            Some(LineRow {
                from: places.of_old(line.from)?,
                to: places.of_old(line.to)?,
                service: services.get(line.service as usize).copied().flatten()?,
                ..line
            })
        })?;
        let compiled = &mut self.compiled;
        compiled.policy.clone_from(&policy.name);
        (compiled.version, compiled.source) = (policy.version, policy.source);
        standing(policy, compiled).ok()?;
        self.policy = policy.clone();
        Some(self)
    }

    /// Takes over the label sets, and says which nobody has any more and which are new.
    fn labels(&mut self, now: &[Labels]) -> Option<(BTreeSet<Labels>, BTreeSet<Labels>)> {
        let was = &mut self.label_sets;
        let same = |(one, other): &(&Labels, &Labels)| one == other;
        let (mut gone, mut come): (Vec<Labels>, Vec<Labels>);
        if was.len() == now.len() {
            (gone, come) = (Vec::new(), Vec::new());
            for (was, now) in was.iter_mut().zip(now).filter(|(was, now)| *was != *now) {
                come.push(now.clone());
                gone.push(std::mem::replace(was, now.clone()));
            }
        } else {
            let front = was.iter().zip(now).take_while(same).count();
            let (rest, fresh) = (&was[front..], &now[front..]);
            let back = rest
                .iter()
                .rev()
                .zip(fresh.iter().rev())
                .take_while(same)
                .count();
            let (end, fresh) = (was.len() - back, &now[front..now.len() - back]);
            if fresh.len().max(end - front) > LABEL_SETS_CHANGED_MAX {
                return None;
            }
            come = fresh.to_vec();
            gone = was.splice(front..end, fresh.iter().cloned()).collect();
        }
        if gone.len().max(come.len()) > LABEL_SETS_CHANGED_MAX {
            return None;
        }
        gone.retain(|labels| !now.contains(labels));
        let known = |labels: &Labels| {
            let classes = self.compiled.identities.iter();
            classes
                .map(|one| &one.labels)
                .any(|sets| sets.binary_search(labels).is_ok())
        };
        come.retain(|labels| !known(labels));
        Some((gone.into_iter().collect(), come.into_iter().collect()))
    }

    /// Cuts the ports again if the services are others. The new places of the services.
    fn cut(&mut self, rules: &RulesChange<'_>) -> Option<Vec<Option<u32>>> {
        let mut others = false;
        for (_, rule) in &rules.come {
            let uses = self.services.entry(rule.service.clone()).or_default();
            others |= *uses == 0;
            *uses += 1;
        }
        for (_, rule) in &rules.gone {
            let uses = self.services.get_mut(&rule.service)?;
            *uses -= 1;
            if *uses == 0 {
                self.services.remove(&rule.service);
                others = true;
            }
        }
        let rows = &mut self.compiled.services;
        if !others {
            return Some((0..u32::try_from(rows.len()).ok()?).map(Some).collect());
        }
        let atoms = atoms::cut(&self.services.keys().collect::<Vec<_>>()).ok()?;
        let fresh = service_rows(self.services.keys(), &atoms);
        self.compiled.atoms = atoms.ranges;
        let was = std::mem::replace(rows, fresh);
        let new = |text: &str| {
            let found = rows.binary_search_by(|row| row.service.as_str().cmp(text));
            found.ok().and_then(|place| u32::try_from(place).ok())
        };
        Some(was.iter().map(|row| new(&row.service)).collect())
    }

    /// What is said of rules, and their places in the text.
    fn rules(&mut self, rules: &RulesChange<'_>, policy: &Policy) -> Option<()> {
        let infos = &mut self.compiled.rules;
        let find =
            |infos: &[crate::RuleInfo], id: RuleId| infos.binary_search_by_key(&id, |info| info.id);
        for (_, rule) in &rules.gone {
            let at = find(infos, rule.id).ok()?;
            infos.remove(at);
        }
        for (tier, rule) in &rules.come {
            // Two rules of one number are refused in the words of the full compilation.
            let at = find(infos, rule.id).err()?;
            infos.insert(at, rule_info(tier, 0, rule));
        }
        for (order, (_, rule)) in (0..).zip(policy.rules()) {
            let at = find(infos, rule.id).ok()?;
            infos[at].order = order;
            infos[at].line = u32::try_from(rule.line).unwrap_or(u32::MAX);
        }
        Some(())
    }

    fn lines(
        &mut self,
        rules: &RulesChange<'_>,
        policy: &Policy,
        moved: impl Fn(LineRow) -> Option<LineRow>,
    ) -> Option<()> {
        let fresh: BTreeSet<RuleId> = rules.come.iter().map(|(_, rule)| rule.id).collect();
        let known = self.compiled.lines.iter();
        let known: HashMap<RuleId, LineRow> = known
            .filter(|line| !fresh.contains(&line.rule))
            .map(|line| (line.rule, *line))
            .collect();
        let selector =
            |selector: &crate::Selector| place(&self.compiled.selectors, &selector.to_string());
        let services = &self.compiled.services;
        let service = |service: &Service| {
            let text = service.to_string();
            let found = services.binary_search_by(|row| row.service.cmp(&text));
            found.ok().and_then(|place| u32::try_from(place).ok())
        };
        let line = |(stage, rule): (u32, &Rule)| match known.get(&rule.id) {
            Some(line) => moved(LineRow { stage, ..*line }),
            None => Some(LineRow {
                rule: rule.id,
                stage,
                from: selector(&rule.from)?,
                to: selector(&rule.to)?,
                service: service(&rule.service)?,
            }),
        };
        let lines = in_force(policy, self.compiled.date).into_iter().map(line);
        self.compiled.lines = lines.collect::<Option<_>>()?;
        Some(())
    }
}

/// The rules that differ.
struct RulesChange<'a> {
    gone: Vec<(&'a Tier, &'a Rule)>,
    come: Vec<(&'a Tier, &'a Rule)>,
}

impl<'a> RulesChange<'a> {
    /// Nothing if there are too many.
    fn between(old: &'a Policy, new: &'a Policy) -> Option<Self> {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for (was, now) in old.tiers.iter().zip(&new.tiers) {
            let same = |(one, other): &(&Rule, &Rule)| says_the_same(one, other);
            let front = was.rules.iter().zip(&now.rules).take_while(same).count();
            let (rest, fresh) = (&was.rules[front..], &now.rules[front..]);
            let back = rest.iter().rev().zip(fresh.iter().rev());
            let back = back.take_while(same).count();
            let (rest, fresh) = (&rest[..rest.len() - back], &fresh[..fresh.len() - back]);
            if rest.len() == fresh.len() {
                let others = rest.iter().zip(fresh).filter(|pair| !same(pair));
                for (rule, other) in others {
                    gone.push((was, rule));
                    come.push((now, other));
                }
            } else {
                gone.extend(rest.iter().map(|rule| (was, rule)));
                come.extend(fresh.iter().map(|rule| (now, rule)));
            }
            if gone.len().max(come.len()) > RULES_CHANGED_MAX {
                return None;
            }
        }
        Some(Self { gone, come })
    }
}

/// Whether two rules differ in nothing but the line on which they stand. Written out so that a new
/// field cannot be forgotten.
fn says_the_same(one: &Rule, other: &Rule) -> bool {
    let Rule {
        id,
        name,
        action,
        from,
        to,
        service,
        at,
        owner,
        justification,
        requirements,
        review_days,
        expires,
        during,
        log,
        log_limit,
        limit,
        touches_sensitive,
        file,
        line: _,
        text,
    } = one;
    (id, action, at, log, log_limit, limit)
        == (
            &other.id,
            &other.action,
            &other.at,
            &other.log,
            &other.log_limit,
            &other.limit,
        )
        && (review_days, expires, during, touches_sensitive)
            == (
                &other.review_days,
                &other.expires,
                &other.during,
                &other.touches_sensitive,
            )
        && (text, name, from, to, service)
            == (
                &other.text,
                &other.name,
                &other.from,
                &other.to,
                &other.service,
            )
        && (owner, justification, requirements, file)
            == (
                &other.owner,
                &other.justification,
                &other.requirements,
                &other.file,
            )
}

/// Whether all that is neither a rule nor a label set, and on which a result depends, is the same.
fn same_frame(one: &Policy, other: &Policy) -> bool {
    let tier = |one: &Tier, other: &Tier| {
        one.name == other.name
            && (one.kind, one.mode, one.on_expiry) == (other.kind, other.mode, other.on_expiry)
    };
    let choices = |policy: &Policy| -> Vec<FailureChoice> {
        let all = policy.choices.iter().cloned();
        all.map(|one| FailureChoice { line: 0, ..one }).collect()
    };
    let observed = |policy: &Policy| -> Vec<Observation> {
        let all = policy.observed.iter().cloned();
        all.map(|one| Observation { line: 0, ..one }).collect()
    };
    let tiers = one.tiers.iter().zip(&other.tiers);
    one.tiers.len() == other.tiers.len()
        && tiers.into_iter().all(|(one, other)| tier(one, other))
        && one.labels == other.labels
        && one.sets == other.sets
        && one.scopes == other.scopes
        && one.baseline_log == other.baseline_log
        && one.controls == other.controls
        && choices(one) == choices(other)
        && observed(one) == observed(other)
}
