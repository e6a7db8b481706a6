//! Which verdicts stand after a change. What held is asked again only where the change can have
//! made a way that was not there, and from there on; of what failed, the chain is tried again, and
//! whether the change can have made a shorter one.

use crate::Bits;
use crate::overlay::{Quantifier, Quantity};
use crate::prove::{Breach, Direct, Never, Prepared, Prover, Search, Verdict};
use crate::row::Join;
use crate::universe::{Relabelled, SelectorId};

/// Steps of a `never path` that are told apart in a bound. With more of them it is one for chains
/// of any length, which bounds them too.
const STEPS_MAX: u32 = 32;

/// A verdict, and on what it rests.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) verdict: Verdict,
    /// The destinations whose rows were looked at.
    pub(crate) rests_on: Bits,
    /// Of a `never path`.
    pub(crate) bound: Option<Bound>,
}

/// Who reaches the ends of a `never path` at most; of one that failed, over fewer sessions than the
/// chain that was found. It is a bound as long as whoever reaches a node of it is in it too, one
/// session further; nobody in it is where chains begin. Rules that allow less than before leave it
/// as it is.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    ends: Bits,
    /// Ends over the whole service: as a stop of a chain they are no nearer to an end.
    full: Bits,
    /// Who reaches an end over one session, over two at most, and so on.
    within: Vec<Bits>,
    /// Whether the last set is for chains of any length.
    endless: bool,
}

/// Where a node stands in a bound: as an end, or so many sessions before one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    End,
    Before(usize),
}

impl Bound {
    fn of((ends, full): (&Bits, Bits), levels: &[Bits], hops: Option<u32>) -> Option<Self> {
        let sets = hops.filter(|hops| *hops <= STEPS_MAX).unwrap_or(1);
        let endless = hops.is_none_or(|hops| hops > STEPS_MAX);
        let mut within: Vec<Bits> = Vec::new();
        for step in 0..sets as usize {
            let mut set = within.last().cloned().unwrap_or_else(|| ends.clone());
            if step == 0 {
                set.clear();
            }
            let own = if endless {
                1..levels.len()
            } else {
                step + 1..step + 2
            };
            let own = levels.get(own).unwrap_or_default();
            own.iter().for_each(|level| set.or(level));
            within.push(set);
        }
        let ends = ends.clone();
        (!within.is_empty()).then_some(Self {
            ends,
            full,
            within,
            endless,
        })
    }

    /// Where the sources of a node stand. `None` if chains are not as long.
    fn next(&self, step: Step) -> Option<usize> {
        let last = self.within.len() - 1;
        match step {
            Step::End => Some(0),
            Step::Before(at) if at < last => Some(at + 1),
            Step::Before(at) => self.endless.then_some(at),
        }
    }

    fn steps(&self, node: usize) -> impl Iterator<Item = Step> {
        let end = self.ends.has(node).then_some(Step::End);
        let before = self.within.iter().position(|set| set.has(node));
        end.into_iter().chain(before.map(Step::Before))
    }

    fn insert(&mut self, node: usize, at: usize) {
        let sets = self.within[at..].iter_mut();
        sets.for_each(|set| set.insert(node));
    }

    fn remove(&mut self, node: usize) {
        let sets = [&mut self.ends, &mut self.full].into_iter();
        let sets = sets.chain(&mut self.within);
        sets.for_each(|set| set.remove(node));
    }

    /// Takes in nodes at a step, but for those that are there; gives those that were not.
    fn take(&mut self, mut nodes: Bits, at: usize) -> Vec<(usize, Step)> {
        nodes.without(&self.full);
        nodes.without(&self.within[at]);
        let fresh: Vec<usize> = nodes.iter().collect();
        fresh.iter().for_each(|node| self.insert(*node, at));
        let step = Step::Before(at);
        fresh.into_iter().map(|node| (node, step)).collect()
    }
}

/// What has changed since the verdicts that are known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Changed<'a> {
    /// The rules toward these nodes.
    Rules(&'a Bits),
    /// The node of a member.
    Member(usize, Relabelled),
    /// The host of a member, and no node.
    Host(usize),
}

impl Prover {
    /// Forgets the verdicts that a change may have made wrong.
    pub(crate) fn forget(&mut self, changed: Changed<'_>) {
        for intent in 0..self.prepared.len() {
            if let Some(known) = self.known[intent].take() {
                self.looked_at.clear();
                self.known[intent] = self.stands(intent, known, changed);
            }
        }
    }

    /// What is known of an intent, if it is known still.
    fn stands(&mut self, intent: usize, known: Known, changed: Changed<'_>) -> Option<Known> {
        let stands = match (&self.prepared[intent], changed) {
            (Prepared::Hosts, Changed::Rules(_)) => true,
            (Prepared::Hosts, Changed::Host(member) | Changed::Member(member, _)) => {
                self.stands_on_hosts((intent, member), &known.verdict)
            }
            (_, Changed::Host(_)) => true,
            (_, Changed::Rules(nodes)) => return self.after_rules(intent, known, nodes),
            (_, Changed::Member(_, moved)) => return self.after_move(intent, known, moved),
        };
        stands.then_some(known)
    }

    /// Where nobody else was in the way, only this member can be now; others who were in the way
    /// still are.
    fn stands_on_hosts(&self, (intent, member): (usize, usize), verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Held => self.host_breach(intent, Some(member)).is_none(),
            Verdict::Failed(Breach::Host(breach)) => !breach.names(member),
            Verdict::Failed(_) => false,
        }
    }

    /// After a change of the rows of these nodes.
    fn after_rules(&mut self, intent: usize, mut known: Known, nodes: &Bits) -> Option<Known> {
        if !known.rests_on.meets(nodes) {
            return Some(known);
        }
        if let Verdict::Failed(breach) = &known.verdict
            && !self.still(intent, breach)
        {
            return None;
        }
        let asked = |prover: &Self, to: SelectorId| {
            let mut asked = prover.alive(to);
            asked.and(nodes);
            asked
        };
        let stands = match self.prepared[intent].clone() {
            _ if known.verdict.is_one_session() => true,
            Prepared::Never(never) => {
                let bound = known.bound.as_mut()?;
                let own = nodes.iter();
                let own = own.flat_map(|node| bound.steps(node).map(move |step| (node, step)));
                let work = own.collect();
                self.spread(&never, bound, work)
            }
            Prepared::Always(claim) => {
                let from = self.alive(claim.from);
                let mut asked = asked(self, claim.to).iter().collect::<Vec<_>>().into_iter();
                asked.all(|node| self.missing_at(claim, &from, node).is_none())
            }
            Prepared::Only(claim) => {
                let who = self.who_may(claim);
                let mut asked = asked(self, claim.to).iter().collect::<Vec<_>>().into_iter();
                asked.all(|node| self.intruder_at(claim, &who, node).is_none())
            }
            Prepared::Hosts => true,
        };
        known.rests_on.or(&self.looked_at);
        stands.then_some(known)
    }

    /// After a member has left one node for another. What holds for all others holds still; only
    /// the new node may be an end, reach one, or be reached.
    fn after_move(&mut self, intent: usize, mut known: Known, moved: Relabelled) -> Option<Known> {
        if let Verdict::Failed(breach) = &known.verdict
            && breach.names([moved.left, moved.joined])
        {
            return None;
        }
        let stands = match self.prepared[intent].clone() {
            _ if known.verdict.is_one_session() => true,
            Prepared::Never(never) => match known.bound.as_mut() {
                None if known.verdict != Verdict::Held => false,
                Some(bound) => self.never_after_move(&never, bound, moved),
                None => self.apart(&never, &known.rests_on, moved),
            },
            Prepared::Always(claim) => self.always_after_move(claim, moved),
            Prepared::Only(claim) => self.only_after_move(claim, moved),
            Prepared::Hosts => true,
        };
        known.rests_on.or(&self.looked_at);
        stands.then_some(known)
    }

    fn always_after_move(&mut self, claim: Direct, moved: Relabelled) -> bool {
        let node = moved.joined;
        let (from, to) = (self.alive(claim.from), self.alive(claim.to));
        if to.has(node) && self.missing_at(claim, &from, node).is_some() {
            return false;
        }
        let asked = (claim.service, Join::Each);
        let over = claim.quantifier(Quantity::Every);
        let mut others = to.iter().filter(|end| *end != node);
        !moved.fresh || !from.has(node) || others.all(|end| self.lets((node, end), asked, over))
    }

    fn only_after_move(&mut self, claim: Direct, moved: Relabelled) -> bool {
        let node = moved.joined;
        let (who, to) = (self.who_may(claim), self.alive(claim.to));
        if to.has(node) && self.intruder_at(claim, &who, node).is_some() {
            return false;
        }
        let over = claim.quantifier(Quantity::Some);
        !moved.fresh
            || who.from.has(node)
            || self.may_reach(node, &to, claim.service, over).is_none()
    }

    fn never_after_move(&mut self, never: &Never, bound: &mut Bound, moved: Relabelled) -> bool {
        let node = moved.joined;
        let (from, to) = (self.sources_of(never), self.alive(never.to));
        if from.has(node) && to.has(node) {
            return false;
        }
        if !moved.fresh {
            return true;
        }
        // Who was this node before has nothing to do with who is now.
        bound.remove(node);
        let mut work = Vec::new();
        if to.has(node) {
            bound.ends.insert(node);
            if self.end_service(never, node) == Some(never.service) {
                bound.full.insert(node);
            }
            work.push((node, Step::End));
        }
        if !bound.full.has(node)
            && let Some(at) = self.place_of(never, bound, node)
        {
            if from.has(node) {
                return false;
            }
            bound.insert(node, at);
            work.push((node, Step::Before(at)));
        }
        self.spread(never, bound, work)
    }

    /// How far a node is from the ends, over the nodes of a bound.
    fn place_of(&mut self, never: &Never, bound: &Bound, node: usize) -> Option<usize> {
        let over = never.quantifier();
        let mut asked = vec![(Step::End, bound.ends.clone())];
        for (at, set) in bound.within.iter().enumerate() {
            let mut own = set.clone();
            if let Some(nearer) = at.checked_sub(1) {
                own.without(&bound.within[nearer]);
            }
            asked.push((Step::Before(at), own));
        }
        asked.into_iter().find_map(|(step, nodes)| {
            let next = bound.next(step)?;
            let mut may = self.may_reach_any(node, &nodes, never.service, over);
            may.retain(|end| {
                let service = self.toward(never, *end, step == Step::End);
                service.is_some_and(|service| self.lets((node, *end), (service, Join::Any), over))
            });
            (!may.is_empty()).then_some(next)
        })
    }

    /// Goes on from nodes whose sources may not be in a bound. False if somebody comes in with
    /// whom chains begin.
    fn spread(&mut self, never: &Never, bound: &mut Bound, mut work: Vec<(usize, Step)>) -> bool {
        let from = self.sources_of(never);
        let mut row = Bits::empty(self.universe.words());
        while let Some((node, step)) = work.pop() {
            let Some(next) = bound.next(step) else {
                continue;
            };
            let Some(service) = self.toward(never, node, step == Step::End) else {
                continue;
            };
            self.sources(node, (service, Join::Any), never.quantifier(), &mut row);
            if row.meets(&from) {
                return false;
            }
            work.extend(bound.take(row.clone(), next));
        }
        true
    }

    /// A bound of who reaches the ends of a search, over fewer sessions than what it found.
    pub(crate) fn bound(&mut self, never: &Never, search: &Search) -> Option<Bound> {
        let (levels, hops) = match search.found {
            None => (search.levels.as_slice(), never.hops),
            Some(_) => {
                let (_, whole) = search.levels.split_last()?;
                let hops = u32::try_from(whole.len()).ok()?.checked_sub(1)?;
                (whole, Some(hops).filter(|hops| *hops <= STEPS_MAX))
            }
        };
        if hops.is_none() && search.found.is_some() {
            return None;
        }
        let ends = levels.first()?;
        let mut full = ends.clone();
        for node in ends.iter() {
            if self.end_service(never, node) != Some(never.service) {
                full.remove(node);
            }
        }
        Bound::of((ends, full), levels, hops)
    }

    /// Whether a chain is still one, or what is missing is missing still.
    fn still(&mut self, intent: usize, breach: &Breach) -> bool {
        match (self.prepared[intent].clone(), breach) {
            (Prepared::Never(never), Breach::Chain(chain)) => {
                let last = chain.nodes.len() - 2;
                let mut hops = chain.nodes.windows(2).enumerate();
                hops.all(|(at, hop)| {
                    let service = self.toward(&never, hop[1], at == last);
                    let over = never.quantifier();
                    service.is_some_and(|service| {
                        self.lets((hop[0], hop[1]), (service, Join::Any), over)
                    })
                })
            }
            (Prepared::Only(claim), Breach::Chain(chain)) => {
                let over = claim.quantifier(Quantity::Some);
                let hop = (chain.nodes[0], chain.nodes[1]);
                self.lets(hop, (claim.service, Join::Any), over)
            }
            (Prepared::Always(claim), Breach::Missing(source, node)) => {
                let over = claim.quantifier(Quantity::Every);
                !self.lets((*source, *node), (claim.service, Join::Each), over)
            }
            _ => false,
        }
    }

    /// Whether a node has nothing to do with what was looked at: neither an end nor a source of it.
    fn apart(&mut self, never: &Never, rests_on: &Bits, moved: Relabelled) -> bool {
        let node = moved.joined;
        let tolerated = never.ends.iter().chain(&never.stops);
        let ends = tolerated.map(|(ends, _)| *ends);
        let mut ends = ends.chain([never.from, never.to]);
        !ends.any(|ends| self.universe.bits(ends).has(node))
            && !rests_on.has(moved.left)
            && !rests_on.has(node)
            && self
                .may_reach_any(node, rests_on, never.service, never.quantifier())
                .is_empty()
    }

    /// Those of some nodes that a source may reach over a service.
    fn may_reach_any(
        &mut self,
        source: usize,
        nodes: &Bits,
        service: u32,
        over: Quantifier,
    ) -> Vec<usize> {
        let open = self.overlays[&over].is_open(source);
        match open {
            true => nodes.iter().collect(),
            false => self.relation.reached(source, (nodes, service)),
        }
    }

    /// One of some nodes that a source reaches over a service.
    fn may_reach(
        &mut self,
        source: usize,
        nodes: &Bits,
        service: u32,
        over: Quantifier,
    ) -> Option<usize> {
        let may = self.may_reach_any(source, nodes, service, over);
        let mut may = may.into_iter();
        may.find(|node| self.lets((source, *node), (service, Join::Any), over))
    }

    /// Whether a source reaches a node.
    fn lets(
        &mut self,
        (source, node): (usize, usize),
        asked: (u32, Join),
        over: Quantifier,
    ) -> bool {
        self.looked_at.insert(node);
        let row = self.relation.row(&self.universe, node, asked);
        self.overlays[&over].lets(&self.universe, (node, &row), source)
    }
}
