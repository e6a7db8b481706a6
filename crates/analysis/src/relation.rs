//! Who may begin a session with whom, for each end by itself: of each destination, a row of bits
//! with its sources. Rows are made when they are asked for, of the rules that name the destination
//! only, and shared by all destinations that the same rules name.
//!
//! What is between the ends, quarantine, observe mode and hosts that enforce nothing, is laid over
//! the rows later ([`crate::overlay`]): it changes without any rule.

use crate::ports::{self, Behaviour};
use crate::row::{Join, Joined, Row};
use crate::universe::{SelectorId, Universe};
use crate::{AnalysisError, Bits};
use lictor_policy::{
    Action, At, Date, Mode, OnExpiry, Policy, Rule, Selector, Service, Tier, TierKind,
};
use lictor_types::{Direction, Protocol};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A rule that is in force on the day of the analysis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Active {
    /// Tier and rule, by their places in the policy.
    pub(crate) place: (u32, u32),
    pub(crate) kind: TierKind,
    pub(crate) action: Action,
    pub(crate) at: At,
    pub(crate) from: SelectorId,
    pub(crate) to: SelectorId,
    pub(crate) service: u32,
    /// Whether each end matches what has no address: the far end of a frame that is not IP.
    pub(crate) nobody: (bool, bool),
    ether: bool,
    /// Whether its window is closed at some hour of the day.
    pub(crate) part_of_day: bool,
}

/// Which rows: the destinations that a list of rules names, and what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Asked {
    service: u32,
    join: Join,
}

/// Rules by a selector that they name, by their places in [`Relation::rules`].
#[derive(Debug, Clone, Default)]
struct Named {
    from: Vec<u32>,
    to: Vec<u32>,
}

/// A list of rules, and how many nodes it is the list of.
#[derive(Debug, Clone)]
struct List {
    rules: Arc<[u32]>,
    users: usize,
}

/// The rules over a universe, and the rows that were asked for.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    /// Rules in the order of evaluation. A change adds one and forgets another.
    rules: Vec<Active>,
    /// Rules that are in force, in the order of evaluation, by their places in `rules`.
    order: Vec<u32>,
    /// The rules in force that name a selector as one of their ends.
    named: HashMap<SelectorId, Named>,
    services: Vec<Service>,
    interned: HashMap<Service, u32>,
    lists: Vec<List>,
    known: HashMap<Arc<[u32]>, u32>,
    /// Lists that no node has any more: their numbers are given again.
    free: Vec<u32>,
    /// The list of rules that name a node as the destination.
    of_node: Vec<u32>,
    rows: BTreeMap<Asked, Vec<Option<Arc<Row>>>>,
    words: usize,
}

impl Relation {
    pub(crate) fn of(
        policy: &Policy,
        universe: &mut Universe,
        date: Date,
    ) -> Result<Self, AnalysisError> {
        let mut relation = Self {
            rules: Vec::new(),
            order: Vec::new(),
            named: HashMap::new(),
            services: Vec::new(),
            interned: HashMap::new(),
            lists: Vec::new(),
            known: HashMap::new(),
            free: Vec::new(),
            of_node: vec![0; universe.nodes().len()],
            rows: BTreeMap::new(),
            words: universe.words(),
        };
        for (tier_place, tier) in (0..).zip(&policy.tiers) {
            for (rule_place, rule) in (0..).zip(&tier.rules) {
                if in_force(tier, rule, date) {
                    let place = (tier_place, rule_place);
                    let slot = relation.add((place, tier, rule), universe)?;
                    relation.order.push(slot);
                }
            }
        }
        relation.sort(universe);
        Ok(relation)
    }

    fn add(
        &mut self,
        (place, tier, rule): ((u32, u32), &Tier, &Rule),
        universe: &mut Universe,
    ) -> Result<u32, AnalysisError> {
        let (_, ether) = ports::split(&rule.service);
        let active = Active {
            place,
            kind: tier.kind,
            action: rule.action,
            at: rule.at,
            from: universe.select(&rule.from)?,
            to: universe.select(&rule.to)?,
            service: self.service(&rule.service),
            nobody: (nobody(&rule.from), nobody(&rule.to)),
            ether: !ether.ranges().is_empty(),
            part_of_day: part_of_day(rule),
        };
        let slot = number(self.rules.len());
        self.named.entry(active.from).or_default().from.push(slot);
        self.named.entry(active.to).or_default().to.push(slot);
        self.rules.push(active);
        Ok(slot)
    }

    /// The number of a service.
    pub(crate) fn service(&mut self, service: &Service) -> u32 {
        if let Some(known) = self.interned.get(service) {
            return *known;
        }
        let id = number(self.services.len());
        self.services.push(service.clone());
        self.interned.insert(service.clone(), id);
        id
    }

    pub(crate) fn service_of(&self, id: u32) -> &Service {
        &self.services[id as usize]
    }

    /// The rules in force, in the order of evaluation.
    pub(crate) fn in_force(&self) -> impl Iterator<Item = &Active> {
        self.order.iter().map(|slot| self.rule(*slot))
    }

    /// Rules that were ever in force.
    pub(crate) fn slots(&self) -> usize {
        self.rules.len()
    }

    pub(crate) fn rule(&self, slot: u32) -> &Active {
        &self.rules[slot as usize]
    }

    /// Partition refinement: nodes that the same rules name share a list, and only one of them is
    /// looked at when the lists are written.
    fn sort(&mut self, universe: &Universe) {
        let nodes = universe.nodes().len();
        let all = universe.all().count();
        let mut class = vec![0_usize; nodes];
        let mut split = vec![(usize::MAX, 0); 1];
        for (step, slot) in self.order.iter().enumerate() {
            let to = universe.bits(self.rules[*slot as usize].to);
            if to.count() == all {
                continue;
            }
            for node in to.iter() {
                let old = class[node];
                if split[old].0 != step {
                    split[old] = (step, split.len());
                    split.push((usize::MAX, 0));
                }
                class[node] = split[old].1;
            }
        }
        let mut first: HashMap<usize, usize> = HashMap::new();
        let speaks: Vec<usize> = (0..nodes)
            .map(|node| *first.entry(class[node]).or_insert(node))
            .collect();
        let mut lists: Vec<Vec<u32>> = vec![Vec::new(); nodes];
        for slot in &self.order {
            let to = universe.bits(self.rules[*slot as usize].to);
            for node in to.iter().filter(|node| speaks[*node] == *node) {
                lists[node].push(*slot);
            }
        }
        for node in 0..nodes {
            let list = match speaks[node] == node {
                true => self.intern(std::mem::take(&mut lists[node])),
                false => self.of_node[speaks[node]],
            };
            self.of_node[node] = list;
            self.lists[list as usize].users += 1;
        }
    }

    fn intern(&mut self, rules: Vec<u32>) -> u32 {
        let rules: Arc<[u32]> = rules.into();
        if let Some(known) = self.known.get(&rules) {
            return *known;
        }
        if let Some(id) = self.free.pop() {
            self.known.insert(rules.clone(), id);
            self.lists[id as usize] = List { rules, users: 0 };
            return id;
        }
        let id = number(self.lists.len());
        self.known.insert(rules.clone(), id);
        self.lists.push(List { rules, users: 0 });
        id
    }

    /// The rules of a node's list: those that name it as the destination.
    pub(crate) fn rules_of(&self, node: usize) -> Arc<[u32]> {
        self.lists[self.of_node[node] as usize].rules.clone()
    }

    /// The rules that name both ends and speak at one of them, in the order of evaluation. A frame
    /// that is not IP has nobody at its far end.
    pub(crate) fn matching(
        &self,
        (source, node): (usize, usize),
        (direction, protocol): (Direction, Protocol),
        universe: &Universe,
    ) -> Vec<(u32, u32)> {
        let ether = protocol == Protocol::Ether;
        let matches = |rule: &Active| {
            let from = universe.bits(rule.from).has(source);
            let to = universe.bits(rule.to).has(node);
            match (ether, direction) {
                (false, _) => from && to,
                (true, Direction::Egress) => from && rule.nobody.1,
                (true, Direction::Ingress) => rule.nobody.0 && to,
            }
        };
        let rules = self.order.iter().map(|slot| self.rule(*slot));
        let own = rules.filter(|rule| rule.at.covers(direction) && matches(rule));
        own.map(|rule| rule.place).collect()
    }

    /// One port of each behaviour that the rules toward a node make of a service.
    pub(crate) fn ports(&self, node: usize, service: u32) -> Vec<(Protocol, u16)> {
        let (ip, ether) = ports::split(&self.services[service as usize]);
        let frames = self.ether_rules();
        let own = self.behaviours(&ip, &self.rules_of(node)).into_iter();
        let mut found: Vec<(Protocol, u16)> = own
            .chain(self.behaviours(&ether, &frames))
            .map(|(behaviour, _)| (behaviour.protocol, behaviour.port))
            .collect();
        found.sort_unstable();
        found
    }

    /// The sources that each rule would allow, did no other rule allow them, with the rule: what
    /// has to change so that nobody comes any more.
    pub(crate) fn allowing(
        &self,
        universe: &Universe,
        (node, service): (usize, u32),
        direction: Direction,
    ) -> Vec<(u32, Bits)> {
        let claim = &self.services[service as usize];
        let mut found: BTreeMap<u32, Bits> = BTreeMap::new();
        for (_, own) in self.behaviours(claim, &self.rules_of(node)) {
            let mut closed = Bits::empty(self.words);
            let mut passed = Bits::empty(self.words);
            let mut tier = u32::MAX;
            let speaks = own
                .iter()
                .filter(|slot| self.rule(**slot).at.covers(direction));
            for slot in speaks {
                let rule = self.rule(*slot);
                if rule.place.0 != tier {
                    tier = rule.place.0;
                    passed.clear();
                }
                let mut fresh = universe.bits(rule.from).clone();
                fresh.without(&closed);
                match rule.action {
                    Action::Pass => passed.or(&fresh),
                    Action::Allow => {
                        fresh.without(&passed);
                        let known = found.entry(*slot);
                        known.or_insert_with(|| Bits::empty(self.words)).or(&fresh);
                    }
                    Action::Deny | Action::Reject => {
                        fresh.without(&passed);
                        closed.or(&fresh);
                    }
                }
            }
        }
        found.into_iter().collect()
    }

    /// The row of a destination.
    pub(crate) fn row(
        &mut self,
        universe: &Universe,
        node: usize,
        (service, join): (u32, Join),
    ) -> Arc<Row> {
        let asked = Asked { service, join };
        let list = self.of_node[node] as usize;
        let rows = self.rows.entry(asked).or_default();
        if rows.len() < self.lists.len() {
            rows.resize(self.lists.len(), None);
        }
        if let Some(row) = &rows[list] {
            return row.clone();
        }
        let row = Arc::new(self.make(universe, &self.lists[list].rules, asked));
        if let Some(slot) = self
            .rows
            .get_mut(&asked)
            .and_then(|rows| rows.get_mut(list))
        {
            *slot = Some(row.clone());
        }
        row
    }

    fn make(&self, universe: &Universe, rules: &[u32], asked: Asked) -> Row {
        let (ip, ether) = ports::split(&self.services[asked.service as usize]);
        let mut joined = Joined::new(asked.join, self.words);
        let side = Side::Sources(universe);
        let rules = &self.steady(rules, asked.join);
        for (_, own) in self.behaviours(&ip, rules) {
            let (egress, ingress) = self.ends(&own, side);
            joined.add(egress, ingress);
        }
        if !ether.ranges().is_empty() {
            self.ether(universe, rules, (&ether, &mut joined));
        }
        joined.row()
    }

    /// What must always be, must be at every hour: rules that allow at some do not make it so.
    fn steady(&self, rules: &[u32], join: Join) -> Vec<u32> {
        let counts = |slot: &u32| join == Join::Any || !self.rule(*slot).part_of_day;
        rules.iter().copied().filter(counts).collect()
    }

    /// Each behaviour with the rules that speak of it.
    fn behaviours(&self, claim: &Service, rules: &[u32]) -> Vec<(Behaviour, Vec<u32>)> {
        let mut ids: Vec<u32> = rules.iter().map(|slot| self.rule(*slot).service).collect();
        ids.sort_unstable();
        ids.dedup();
        let services: Vec<&Service> = ids.iter().map(|id| &self.services[*id as usize]).collect();
        let place = |slot: u32| {
            let service = self.rule(slot).service;
            ids.binary_search(&service).unwrap_or_default()
        };
        let places: Vec<usize> = rules.iter().map(|slot| place(*slot)).collect();
        let of = |behaviour: Behaviour| {
            let own = rules.iter().zip(&places);
            let own = own.filter(|(_, place)| behaviour.covers(**place));
            let own = own.map(|(slot, _)| *slot).collect();
            (behaviour, own)
        };
        let all = ports::behaviours(claim, &services);
        all.into_iter().map(of).collect()
    }

    /// What both ends say on one behaviour.
    fn ends(&self, rules: &[u32], side: Side<'_>) -> (Bits, Option<Bits>) {
        let one_end = rules.iter().any(|slot| self.rule(*slot).at != At::Both);
        let egress = self.walk(rules, Direction::Egress, side);
        let ingress = one_end.then(|| self.walk(rules, Direction::Ingress, side));
        (egress, ingress)
    }

    /// The tiers in their order, for all far ends at once.
    fn walk(&self, rules: &[u32], direction: Direction, side: Side<'_>) -> Bits {
        let mut allowed = Bits::empty(self.words);
        let speaks = |slot: &&u32| self.rule(**slot).at.covers(direction);
        if !rules
            .iter()
            .filter(speaks)
            .any(|slot| self.rule(*slot).action == Action::Allow)
        {
            return allowed;
        }
        let ordered = rules
            .iter()
            .any(|slot| self.rule(*slot).kind == TierKind::Ordered);
        let words = if ordered { self.words } else { 0 };
        let (mut closed, mut passed) = (Bits::empty(words), Bits::empty(words));
        let mut fresh = Bits::empty(words);
        let mut tier = u32::MAX;
        for slot in rules.iter().filter(speaks) {
            let rule = self.rule(*slot);
            if rule.place.0 != tier {
                tier = rule.place.0;
                passed.clear();
            }
            let far = side.far(rule);
            match (rule.kind, rule.action) {
                (TierKind::AllowOnly, _) if ordered => allowed.or_without(far, &closed),
                (TierKind::AllowOnly, _) => allowed.or(far),
                (TierKind::Ordered, Action::Pass) => passed.or(far),
                (TierKind::Ordered, action) => {
                    fresh.clear();
                    fresh.or_without(far, &closed);
                    fresh.without(&passed);
                    if action == Action::Allow {
                        allowed.or(&fresh);
                    }
                    closed.or(&fresh);
                }
            }
        }
        allowed
    }

    fn ether_rules(&self) -> Vec<u32> {
        let rules = self.order.iter().copied();
        rules.filter(|slot| self.rule(*slot).ether).collect()
    }

    /// Frames that are not IP have no addresses: each end is asked with nobody at the other one.
    fn ether(&self, universe: &Universe, rules: &[u32], (claim, joined): (&Service, &mut Joined)) {
        let ether = self.steady(&self.ether_rules(), joined.join);
        for (_, own) in self.behaviours(claim, &ether) {
            let out: Vec<u32> = own
                .iter()
                .copied()
                .filter(|slot| self.rule(*slot).nobody.1)
                .collect();
            let toward: Vec<u32> = own
                .iter()
                .copied()
                .filter(|slot| self.rule(*slot).nobody.0 && rules.contains(slot))
                .collect();
            let egress = self.walk(&out, Direction::Egress, Side::Sources(universe));
            let ingress = self.walk(&toward, Direction::Ingress, Side::All(universe));
            joined.add(egress, Some(ingress));
        }
    }
}

/// Which end a rule's bits are taken of, the other one being settled.
#[derive(Debug, Clone, Copy)]
enum Side<'a> {
    /// The sources.
    Sources(&'a Universe),
    /// The destinations.
    Destinations(&'a Universe),
    /// Everybody: the rule matches whoever it is.
    All(&'a Universe),
}

impl<'a> Side<'a> {
    fn far(self, rule: &Active) -> &'a Bits {
        match self {
            Self::Sources(universe) => universe.bits(rule.from),
            Self::Destinations(universe) => universe.bits(rule.to),
            Self::All(universe) => universe.all(),
        }
    }
}

impl Relation {
    /// Puts a rule in the place of another one. The nodes that either names have other rows now.
    pub(crate) fn replace(
        &mut self,
        (place, tier, rule): ((u32, u32), &Tier, &Rule),
        (universe, date): (&mut Universe, Date),
    ) -> Result<Bits, AnalysisError> {
        let at = self
            .order
            .partition_point(|slot| self.rules[*slot as usize].place < place);
        let old = self.order.get(at).copied();
        let old = old.filter(|slot| self.rules[*slot as usize].place == place);
        let new = match in_force(tier, rule, date) {
            true => Some(self.add((place, tier, rule), universe)?),
            false => None,
        };
        let end = at + usize::from(old.is_some());
        self.order.splice(at..end, new);
        if let Some(old) = old {
            let (from, to) = (self.rule(old).from, self.rule(old).to);
            let without = |rules: &mut Vec<u32>| rules.retain(|slot| *slot != old);
            without(&mut self.named.entry(from).or_default().from);
            without(&mut self.named.entry(to).or_default().to);
        }
        let named = |slot: Option<u32>| {
            slot.map(|slot| universe.bits(self.rules[slot as usize].to).clone())
        };
        let (was, is) = (named(old), named(new));
        let frames = [old, new].into_iter().flatten();
        let frames = frames.into_iter().any(|slot| self.rule(slot).ether);
        let mut nodes = Bits::empty(universe.words());
        was.iter().chain(&is).for_each(|bits| nodes.or(bits));
        let mut known: HashMap<(u32, bool), u32> = HashMap::new();
        let mut left = Vec::new();
        for node in nodes.iter() {
            let inside = is.as_ref().is_some_and(|bits| bits.has(node));
            let list = self.of_node[node];
            let next = match known.get(&(list, inside)) {
                Some(next) => *next,
                None => {
                    let next = self.edited(list, old, new.filter(|_| inside));
                    known.insert((list, inside), next);
                    next
                }
            };
            self.lists[next as usize].users += 1;
            left.push(std::mem::replace(&mut self.of_node[node], next));
        }
        // Only now: a list that is given up must not be given again while it is being edited.
        left.into_iter().for_each(|list| self.release(list));
        if frames {
            // What frames that are not IP may leave with depends on no destination.
            self.forget_frames();
            nodes = universe.all().clone();
        }
        Ok(nodes)
    }

    /// Forgets the rows about frames that are not IP.
    fn forget_frames(&mut self) {
        self.rows.retain(|asked, _| {
            let (_, ether) = ports::split(&self.services[asked.service as usize]);
            ether.ranges().is_empty()
        });
    }

    /// Those of some nodes that rules let a source reach; also those whose row was never made.
    pub(crate) fn reached(&self, source: usize, (nodes, service): (&Bits, u32)) -> Vec<usize> {
        let join = Join::Any;
        let Some(rows) = self.rows.get(&Asked { service, join }) else {
            return nodes.iter().collect();
        };
        let reached = |node: &usize| {
            let list = self.of_node[*node] as usize;
            let row = rows.get(list).and_then(Option::as_ref);
            row.is_none_or(|row| row.egress().has(source) || row.ingress().has(source))
        };
        nodes.iter().filter(reached).collect()
    }

    /// A list without one rule and with another one.
    fn edited(&mut self, list: u32, old: Option<u32>, new: Option<u32>) -> u32 {
        let rules = self.lists[list as usize].rules.iter().copied();
        let mut rules: Vec<u32> = rules.filter(|slot| Some(*slot) != old).collect();
        if let Some(new) = new {
            let place = self.rule(new).place;
            let at = rules.partition_point(|slot| self.rule(*slot).place < place);
            rules.insert(at, new);
        }
        self.intern(rules)
    }

    /// Notes that a node has no longer a list; its rows are forgotten with the last one.
    fn release(&mut self, list: u32) {
        let entry = &mut self.lists[list as usize];
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        self.known.remove(&entry.rules);
        entry.rules = Arc::from([]);
        self.free.push(list);
        for rows in self.rows.values_mut() {
            if let Some(row) = rows.get_mut(list as usize) {
                *row = None;
            }
        }
    }

    /// Takes in a node that nobody was of before: as a destination, and as a source of the rows
    /// that are there already.
    pub(crate) fn enter(&mut self, universe: &Universe, node: usize) {
        let selectors = universe.matching(node);
        let rules = self.naming(&selectors, |named| &named.to);
        let list = self.intern(rules);
        self.lists[list as usize].users += 1;
        match self.of_node.get(node).copied() {
            Some(old) => {
                self.of_node[node] = list;
                self.release(old);
            }
            None => self.of_node.push(list),
        }
        let rules = self.naming(&selectors, |named| &named.from);
        // Of frames without addresses a column says nothing: such rows are made again.
        self.forget_frames();
        // Nodes that nobody is of speak for no list: no selector has them.
        let mut speaks = vec![None; self.lists.len()];
        for destination in universe.all().iter() {
            speaks[self.of_node[destination] as usize] = Some(destination);
        }
        let mut rows = std::mem::take(&mut self.rows);
        for (asked, rows) in &mut rows {
            let column = self.column(universe, &rules, *asked);
            for (row, destination) in rows.iter_mut().zip(&speaks) {
                let Some(destination) = *destination else {
                    *row = None;
                    continue;
                };
                if let Some(row) = row {
                    let ends = (
                        column.both.has(destination),
                        column.egress().has(destination),
                        column.ingress().has(destination),
                    );
                    Arc::make_mut(row).set(node, ends);
                }
            }
        }
        self.rows = rows;
    }

    /// The rules in force that name one of these selectors at an end, in the order of evaluation.
    fn naming(&self, selectors: &[SelectorId], end: impl Fn(&Named) -> &Vec<u32>) -> Vec<u32> {
        let named = selectors.iter().filter_map(|id| self.named.get(id));
        let mut rules: Vec<u32> = named.flat_map(end).copied().collect();
        rules.sort_unstable_by_key(|slot| self.rule(*slot).place);
        rules
    }

    /// The destinations that rules let one source reach.
    fn column(&self, universe: &Universe, rules: &[u32], asked: Asked) -> Row {
        let claim = &self.services[asked.service as usize];
        let mut joined = Joined::new(asked.join, self.words);
        for (_, own) in self.behaviours(claim, &self.steady(rules, asked.join)) {
            let (egress, ingress) = self.ends(&own, Side::Destinations(universe));
            joined.add(egress, ingress);
        }
        joined.row()
    }

    /// Behaviours of ports over all rules.
    pub(crate) fn behaviour_count(&self) -> usize {
        let services: Vec<&Service> = self.services.iter().collect();
        ports::behaviours(&Service::any(), &services).len()
    }

    /// Bytes of the rows.
    pub(crate) fn bytes(&self) -> usize {
        let rows = self.rows.values().flatten().flatten();
        rows.map(|row| row.bytes()).sum()
    }
}

fn in_force(tier: &Tier, rule: &Rule, date: Date) -> bool {
    let lasts = tier.on_expiry == OnExpiry::KeepAndAlarm || !rule.expired(date);
    tier.mode == Mode::Enforce && rule.on_its_day(date) && lasts
}

/// Whether a rule allows at some hours of the day only.
pub(crate) fn part_of_day(rule: &Rule) -> bool {
    rule.during.is_some_and(|window| !window.is_all_day())
}

/// Whether a selector matches an end without an address.
fn nobody(selector: &Selector) -> bool {
    match selector {
        Selector::Any | Selector::Outside => true,
        Selector::Not(inner) => !nobody(inner),
        Selector::All(parts) => parts.iter().all(nobody),
        Selector::Either(parts) => parts.iter().any(nobody),
        _ => false,
    }
}

fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
