//! Intents, asked of the relation: what must never be, what must always be.
//!
//! A chain is looked for backwards from its end, a level of nodes at a time, so that only rows of
//! nodes are made from which the end can be reached at all.

use crate::again::{Bound, Known};
use crate::overlay::{Overlay, Placements, Quantifier, Quantity};
use crate::ports::minus;
use crate::relation::Relation;
use crate::row::Join;
use crate::universe::{SelectorId, Universe};
use crate::{AnalysisError, Bits};
use lictor_policy::{Claim, Date, Estate, Exception, Intent, Policy, Service};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A policy over an estate, with all that was found out about it so far.
#[derive(Debug, Clone)]
pub struct Prover {
    pub(crate) policy: Arc<Policy>,
    pub(crate) estate: Arc<Estate>,
    pub(crate) date: Date,
    pub(crate) universe: Universe,
    pub(crate) relation: Relation,
    pub(crate) overlays: BTreeMap<Quantifier, Overlay>,
    pub(crate) prepared: Vec<Prepared>,
    /// What was found out about each intent and still holds.
    pub(crate) known: Vec<Option<Known>>,
    /// The destinations that the search at hand has looked at.
    pub(crate) looked_at: Bits,
}

/// What became of an intent, in nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Held,
    /// It does not: this is why.
    Failed(Breach),
}

/// Why an intent does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breach {
    /// A chain of allowed sessions, by its nodes from the first to the last.
    Chain(Chain),
    /// A session that is not allowed on each port, by its nodes.
    Missing(usize, usize),
    /// Hosts, which [`crate::hosts`] looks at.
    Host(crate::hosts::HostBreach),
}

impl Verdict {
    /// Whether it is a single session, or the lack of one: no other can be shorter.
    pub(crate) fn is_one_session(&self) -> bool {
        match self {
            Self::Failed(Breach::Chain(chain)) => chain.nodes.len() == 2,
            Self::Failed(Breach::Missing(..)) => true,
            Self::Failed(Breach::Host(_)) | Self::Held => false,
        }
    }
}

impl Breach {
    /// Whether it is about one of these nodes.
    pub(crate) fn names(&self, nodes: [usize; 2]) -> bool {
        match self {
            Self::Chain(chain) => {
                let mut ends = chain.nodes.iter().chain(&chain.forged_by);
                ends.any(|end| nodes.contains(end))
            }
            Self::Missing(source, node) => nodes.contains(source) || nodes.contains(node),
            Self::Host(_) => true,
        }
    }
}

/// A chain of allowed sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The nodes, from the first to the last.
    pub nodes: Vec<usize>,
    /// The outside addresses from which it really comes, if the first node's are forged.
    pub forged_by: Option<usize>,
}

/// A claim with its selectors and services looked up.
#[derive(Debug, Clone)]
pub(crate) enum Prepared {
    Never(Never),
    Always(Direct),
    Only(Direct),
    Hosts,
}

/// A claim about single sessions, looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Direct {
    pub(crate) from: SelectorId,
    pub(crate) to: SelectorId,
    pub(crate) service: u32,
    placements: Placements,
}

/// A `never path`, looked up.
#[derive(Debug, Clone)]
pub(crate) struct Never {
    pub(crate) from: SelectorId,
    pub(crate) to: SelectorId,
    pub(crate) service: u32,
    pub(crate) hops: Option<u32>,
    /// Ends and stops that are tolerated, with what is left of the service there.
    pub(crate) ends: Vec<(SelectorId, Option<Service>)>,
    pub(crate) stops: Vec<(SelectorId, Option<Service>)>,
    pub(crate) placements: Placements,
}

impl Prover {
    /// Takes a policy over an estate on a day.
    ///
    /// # Errors
    /// [`AnalysisError`] if there are too many classes.
    pub fn new(
        policy: Arc<Policy>,
        estate: Arc<Estate>,
        date: Date,
    ) -> Result<Self, AnalysisError> {
        let universe = Universe::of(&[&policy], &estate)?;
        Self::over((policy, estate, date), universe)
    }

    pub(crate) fn over(
        (policy, estate, date): (Arc<Policy>, Arc<Estate>, Date),
        mut universe: Universe,
    ) -> Result<Self, AnalysisError> {
        let mut relation = Relation::of(&policy, &mut universe, date)?;
        let prepared: Result<Vec<_>, _> = policy
            .intents
            .iter()
            .map(|intent| prepare(intent, &mut universe, &mut relation))
            .collect();
        let mut prover = Self {
            known: vec![None; policy.intents.len()],
            looked_at: Bits::empty(universe.words()),
            prepared: prepared?,
            policy,
            estate,
            date,
            universe,
            relation,
            overlays: BTreeMap::new(),
        };
        prover.lay();
        Ok(prover)
    }

    /// Makes the overlays that the intents need.
    fn lay(&mut self) {
        let asked: Vec<Quantifier> = self.prepared.iter().filter_map(quantifier).collect();
        let always = Quantifier {
            placements: Placements::Now,
            quantity: Quantity::Some,
        };
        for quantifier in asked.into_iter().chain([always]) {
            let over = (&*self.policy, &self.universe);
            let entry = self.overlays.entry(quantifier);
            entry.or_insert_with(|| Overlay::of(over, (quantifier, self.date)));
        }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The estate.
    #[must_use]
    pub fn estate(&self) -> &Estate {
        &self.estate
    }

    /// The classes of ends.
    #[must_use]
    pub fn universe(&self) -> &Universe {
        &self.universe
    }

    /// The day.
    #[must_use]
    pub fn date(&self) -> Date {
        self.date
    }

    /// Behaviours of ports that the rules tell apart.
    #[must_use]
    pub fn behaviours(&self) -> usize {
        self.relation.behaviour_count()
    }

    /// Bytes of all sets and rows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.universe.bytes() + self.relation.bytes()
    }

    /// What becomes of each intent, in the order of the policy.
    pub fn verdicts(&mut self) -> Vec<Verdict> {
        (0..self.prepared.len())
            .map(|intent| self.verdict(intent))
            .collect()
    }

    /// What becomes of one intent, by its place in the policy.
    pub fn verdict(&mut self, intent: usize) -> Verdict {
        if let Some(known) = &self.known[intent] {
            return known.verdict.clone();
        }
        self.looked_at.clear();
        let (verdict, bound) = self.judge(intent);
        self.known[intent] = Some(Known {
            verdict: verdict.clone(),
            rests_on: self.looked_at.clone(),
            bound,
        });
        verdict
    }

    fn judge(&mut self, intent: usize) -> (Verdict, Option<Bound>) {
        let prepared = self.prepared[intent].clone();
        let mut bound = None;
        let breach = match &prepared {
            Prepared::Never(never) => {
                let (found, own) = self.chain(never);
                bound = own;
                found.map(Breach::Chain)
            }
            Prepared::Always(claim) => self.missing(*claim),
            Prepared::Only(claim) => self.intruder(*claim),
            Prepared::Hosts => self.host_breach(intent, None).map(Breach::Host),
        };
        (breach.map_or(Verdict::Held, Verdict::Failed), bound)
    }

    pub(crate) fn never(&self, intent: usize) -> Option<&Never> {
        match &self.prepared[intent] {
            Prepared::Never(never) => Some(never),
            _ => None,
        }
    }

    /// The nodes that a selector matches and that have members.
    pub(crate) fn alive(&self, id: SelectorId) -> Bits {
        let mut bits = self.universe.bits(id).clone();
        bits.and(self.universe.all());
        bits
    }

    /// The sources of a node, over a service.
    pub(crate) fn sources(
        &mut self,
        node: usize,
        (service, join): (u32, Join),
        quantifier: Quantifier,
        out: &mut Bits,
    ) {
        self.looked_at.insert(node);
        let row = self.relation.row(&self.universe, node, (service, join));
        let overlay = &self.overlays[&quantifier];
        overlay.lay(&self.universe, (node, &row), out);
    }

    fn missing(&mut self, claim: Direct) -> Option<Breach> {
        let (from, to) = (self.alive(claim.from), self.alive(claim.to));
        to.iter()
            .find_map(|node| self.missing_at(claim, &from, node))
    }

    /// Somebody who should reach a node and does not.
    pub(crate) fn missing_at(&mut self, claim: Direct, from: &Bits, node: usize) -> Option<Breach> {
        let mut row = Bits::empty(self.universe.words());
        let quantifier = claim.quantifier(Quantity::Every);
        self.sources(node, (claim.service, Join::Each), quantifier, &mut row);
        if !self.universe.is_several(node) {
            row.insert(node);
        }
        let source = from.beyond(&row)?;
        Some(Breach::Missing(source, node))
    }

    fn intruder(&mut self, claim: Direct) -> Option<Breach> {
        let known = self.who_may(claim);
        let to = self.alive(claim.to);
        to.iter()
            .find_map(|node| self.intruder_at(claim, &known, node))
    }

    /// Who may come, and whose address somebody else may forge.
    pub(crate) fn who_may(&self, claim: Direct) -> WhoMay {
        let from = self.alive(claim.from);
        let mut forged = from.clone();
        forged.and(self.universe.outside());
        let forger = self.universe.outside().beyond(&from);
        let forger = forger.filter(|_| !self.estate.fabric_trusted);
        WhoMay {
            from,
            forged,
            forger,
        }
    }

    /// Somebody who reaches a node and may not.
    pub(crate) fn intruder_at(
        &mut self,
        claim: Direct,
        known: &WhoMay,
        node: usize,
    ) -> Option<Breach> {
        let mut row = Bits::empty(self.universe.words());
        let quantifier = claim.quantifier(Quantity::Some);
        self.sources(node, (claim.service, Join::Any), quantifier, &mut row);
        let intruder = row.beyond(&known.from).map(|source| (source, None));
        let forged = || row.common(&known.forged).zip(known.forger.map(Some));
        let (source, forged_by) = intruder.or_else(forged)?;
        let nodes = vec![source, node];
        Some(Breach::Chain(Chain { nodes, forged_by }))
    }

    /// The shortest chain that a `never path` forbids, and a bound of who reaches its ends over
    /// fewer sessions.
    fn chain(&mut self, never: &Never) -> (Option<Chain>, Option<Bound>) {
        let from = self.sources_of(never);
        let groups = self.groups(never, &from);
        let mut shortest: Option<Vec<usize>> = None;
        let alone = groups.len() == 1;
        let mut bound = None;
        for targets in groups {
            let mut own = from.clone();
            if let Some(single) = self.single(&targets) {
                own.remove(single);
            }
            let search = self.search(never, (&own, &targets));
            if alone && !targets.meets(&from) {
                bound = self.bound(never, &search);
            }
            let found = search
                .found
                .map(|source| self.retrace(never, source, &search.levels));
            if let Some(found) = found
                && shortest
                    .as_ref()
                    .is_none_or(|known| found.len() < known.len())
            {
                let least = found.len() == 2;
                shortest = Some(found);
                if least {
                    break;
                }
            }
        }
        let Some(nodes) = shortest else {
            return (None, bound);
        };
        let truly = self.alive(never.from);
        let forged_by = (!truly.has(nodes[0])).then(|| truly.common(self.universe.outside()));
        let forged_by = forged_by.flatten();
        (Some(Chain { nodes, forged_by }), bound)
    }

    /// Where chains begin. From outside, where the fabric is not trusted, with every address.
    pub(crate) fn sources_of(&self, never: &Never) -> Bits {
        let mut from = self.alive(never.from);
        if !self.estate.fabric_trusted && from.meets(self.universe.outside()) {
            from.or(self.universe.outside());
        }
        from
    }

    /// The ends of chains, apart where a chain could end where it began: it must not, then.
    pub(crate) fn groups(&self, never: &Never, from: &Bits) -> Vec<Bits> {
        let mut to = self.alive(never.to);
        let both = {
            let mut both = to.clone();
            both.and(from);
            both
        };
        let mut groups = Vec::new();
        for node in both.iter().filter(|node| !self.universe.is_several(*node)) {
            to.remove(node);
            let mut one = Bits::empty(self.universe.words());
            one.insert(node);
            groups.push(one);
        }
        if !to.is_empty() {
            groups.insert(0, to);
        }
        groups
    }

    pub(crate) fn single(&self, targets: &Bits) -> Option<usize> {
        let first = targets.first()?;
        (targets.count() == 1 && !self.universe.is_several(first)).then_some(first)
    }

    /// Backward from the targets until a source is found or nothing is left.
    pub(crate) fn search(&mut self, never: &Never, (from, targets): (&Bits, &Bits)) -> Search {
        let words = self.universe.words();
        let mut levels = vec![targets.clone()];
        let mut visited = Bits::empty(words);
        let mut row = Bits::empty(words);
        let hops = never.hops.unwrap_or(u32::MAX);
        let mut found = None;
        for depth in 0..hops {
            let mut next = Bits::empty(words);
            let last = levels.last().map(|level| level.iter().collect::<Vec<_>>());
            for node in last.unwrap_or_default() {
                let Some(service) = self.toward(never, node, depth == 0) else {
                    continue;
                };
                self.sources(node, (service, Join::Any), never.quantifier(), &mut row);
                next.or(&row);
                if row.meets(from) {
                    break;
                }
            }
            found = next.common(from);
            if depth == 0 {
                // An end that is tolerated over some service may be a stop of another chain.
                let full = |node: &usize| self.end_service(never, *node) == Some(never.service);
                let full: Vec<usize> = targets.iter().filter(full).collect();
                full.into_iter().for_each(|node| visited.insert(node));
            }
            next.without(&visited);
            visited.or(&next);
            let done = found.is_some() || next.is_empty();
            levels.push(next);
            if done {
                break;
            }
        }
        Search { levels, found }
    }

    /// The service over which a session to this node counts, as an end or as a stop.
    pub(crate) fn toward(&mut self, never: &Never, node: usize, end: bool) -> Option<u32> {
        match end {
            true => self.end_service(never, node),
            false => self.left(never.service, (&never.stops, node)),
        }
    }

    pub(crate) fn end_service(&mut self, never: &Never, node: usize) -> Option<u32> {
        self.left(never.service, (&never.ends, node))
    }

    /// What exceptions leave of a service at a node; `None` if nothing is left.
    fn left(
        &mut self,
        service: u32,
        (exceptions, node): (&[(SelectorId, Option<Service>)], usize),
    ) -> Option<u32> {
        let mut own = exceptions
            .iter()
            .filter(|(ends, _)| self.universe.bits(*ends).has(node))
            .peekable();
        if own.peek().is_none() {
            return Some(service);
        }
        let mut rest = self.relation.service_of(service).clone();
        for (_, tolerated) in own {
            rest = minus(&rest, tolerated.as_ref()?);
        }
        (!rest.ranges().is_empty()).then(|| self.relation.service(&rest))
    }

    /// The chain from a source that was found on the last level, forward.
    fn retrace(&mut self, never: &Never, source: usize, levels: &[Bits]) -> Vec<usize> {
        let mut nodes = vec![source];
        let mut row = Bits::empty(self.universe.words());
        let mut at = source;
        for (depth, level) in levels[..levels.len() - 1].iter().enumerate().rev() {
            for node in level.iter() {
                let Some(service) = self.toward(never, node, depth == 0) else {
                    continue;
                };
                self.sources(node, (service, Join::Any), never.quantifier(), &mut row);
                if row.has(at) {
                    nodes.push(node);
                    at = node;
                    break;
                }
            }
        }
        nodes
    }
}

/// What a search met.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    /// The targets, then who reaches them over one session, over two, and so on.
    pub(crate) levels: Vec<Bits>,
    /// A source on the last level.
    pub(crate) found: Option<usize>,
}

impl Never {
    pub(crate) fn quantifier(&self) -> Quantifier {
        Quantifier {
            placements: self.placements,
            quantity: Quantity::Some,
        }
    }
}

impl Direct {
    pub(crate) fn quantifier(&self, quantity: Quantity) -> Quantifier {
        Quantifier {
            placements: self.placements,
            quantity,
        }
    }
}

/// Who may come to the ends of an `only`.
pub(crate) struct WhoMay {
    pub(crate) from: Bits,
    /// Outside addresses among them, which others may forge.
    forged: Bits,
    /// Somebody who would.
    forger: Option<usize>,
}

fn quantifier(prepared: &Prepared) -> Option<Quantifier> {
    match prepared {
        Prepared::Never(never) => Some(never.quantifier()),
        Prepared::Only(claim) => Some(claim.quantifier(Quantity::Some)),
        Prepared::Always(claim) => Some(claim.quantifier(Quantity::Every)),
        Prepared::Hosts => None,
    }
}

/// With hosts failed, guests may be on every host that they may run on.
pub(crate) fn placements(intent: &Intent) -> Placements {
    match intent.any_host || intent.failures > 0 {
        true => Placements::Any,
        false => Placements::Now,
    }
}

fn prepare(
    intent: &Intent,
    universe: &mut Universe,
    relation: &mut Relation,
) -> Result<Prepared, AnalysisError> {
    let placements = placements(intent);
    Ok(match &intent.claim {
        Claim::NeverPath {
            from,
            to,
            service,
            hops,
            except,
        } => {
            let mut exceptions = |via: bool| -> Result<Vec<_>, AnalysisError> {
                let own = except.iter().filter(|one| one.via == via);
                own.map(|one: &Exception| Ok((universe.select(&one.ends)?, one.service.clone())))
                    .collect()
            };
            let (ends, stops) = (exceptions(false)?, exceptions(true)?);
            let service = service.clone().unwrap_or_else(Service::any);
            Prepared::Never(Never {
                from: universe.select(from)?,
                to: universe.select(to)?,
                service: relation.service(&service),
                hops: *hops,
                ends,
                stops,
                placements,
            })
        }
        Claim::AlwaysPath { from, to, service } => Prepared::Always(Direct {
            from: universe.select(from)?,
            to: universe.select(to)?,
            service: relation.service(service),
            placements,
        }),
        Claim::Only { from, to, service } => Prepared::Only(Direct {
            from: universe.select(from)?,
            to: universe.select(to)?,
            service: relation.service(service),
            placements,
        }),
        Claim::Controls { .. } | Claim::Apart { .. } => {
            for selector in intent.claim.selectors() {
                universe.select(selector)?;
            }
            Prepared::Hosts
        }
    })
}
