//! The smallest set of rules to change so that a chain, and every other one that the intent
//! forbids, is gone: a minimum cut in which rules are the vertices that can be cut.

use crate::Bits;
use crate::flow::{Graph, WIDE};
use crate::overlay::Quantifier;
use crate::prove::{Never, Prover};
use crate::row::Join;
use lictor_types::Direction;
use std::collections::{BTreeMap, BTreeSet};

/// Edges of a graph that is cut.
const EDGES_MAX: usize = 4_000_000;

/// Rules to change, by tier and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// Without these nothing is left.
    Rules(Vec<(u32, u32)>),
    /// No rule allows it: an end is observed, or its host leaves it unprotected.
    NotByRules,
    /// The graph has more edges than are looked at.
    TooLarge,
}

/// Who may stand on a chain: how many sessions from a source, and as a stop from a target.
struct Span {
    from_source: Vec<Bits>,
    stops: BTreeMap<usize, u32>,
}

/// The vertices of the graph: source and sink, then two for each node and rule.
struct Network {
    graph: Graph,
    rules: BTreeMap<u32, usize>,
    nodes: BTreeMap<usize, usize>,
    joined: BTreeSet<(usize, usize)>,
    next: usize,
}

const SOURCE: usize = 0;
const SINK: usize = 1;

impl Network {
    fn new(vertices: usize) -> Self {
        Self {
            graph: Graph::new(vertices),
            rules: BTreeMap::new(),
            nodes: BTreeMap::new(),
            joined: BTreeSet::new(),
            next: SINK + 1,
        }
    }

    fn node(&mut self, node: usize) -> usize {
        let next = &mut self.next;
        *self.nodes.entry(node).or_insert_with(|| {
            *next += 1;
            *next - 1
        })
    }

    /// A rule is entered at one vertex and left at the next one.
    fn rule(&mut self, slot: u32) -> usize {
        if let Some(known) = self.rules.get(&slot) {
            return *known;
        }
        let vertex = self.next;
        self.next += 2;
        self.rules.insert(slot, vertex);
        self.graph.join(vertex, vertex + 1, 1);
        vertex
    }

    fn join(&mut self, from: usize, to: usize) {
        if self.joined.insert((from, to)) {
            self.graph.join(from, to, WIDE);
        }
    }
}

impl Prover {
    /// What to change so that no forbidden chain is left.
    pub(crate) fn cut_chains(&mut self, never: &Never) -> Cut {
        let from = self.sources_of(never);
        let span = self.span(never, &from);
        let vertices = 2 + self.universe.nodes().len() + 2 * self.relation.slots();
        let mut network = Network::new(vertices);
        for source in from.iter() {
            let vertex = network.node(source);
            network.join(SOURCE, vertex);
        }
        let ends: Vec<usize> = self.targets(never).iter().collect();
        let ends = ends.into_iter().map(|node| (node, 0));
        let stops = span.stops.iter().map(|(node, left)| (*node, *left));
        let hops = never.hops.unwrap_or(u32::MAX);
        for (node, left) in ends.chain(stops) {
            let Some(service) = self.toward(never, node, left == 0) else {
                continue;
            };
            let mut near = Bits::empty(self.universe.words());
            for (distance, layer) in (0_u32..).zip(&span.from_source) {
                if distance.saturating_add(1).saturating_add(left) <= hops {
                    near.or(layer);
                }
            }
            let to = if left == 0 { SINK } else { network.node(node) };
            self.add_edges(
                (node, service, never.quantifier()),
                &near,
                (&mut network, to),
            );
            if network.graph.edges() > EDGES_MAX {
                return Cut::TooLarge;
            }
        }
        self.cut(network)
    }

    /// What to change so that none of these sources reaches any of these nodes.
    pub(crate) fn cut_sessions(
        &mut self,
        (from, to): (&Bits, &Bits),
        (service, quantifier): (u32, Quantifier),
    ) -> Cut {
        let mut network = Network::new(2 + self.universe.nodes().len() + 2 * self.relation.slots());
        for source in from.iter() {
            let vertex = network.node(source);
            network.join(SOURCE, vertex);
        }
        for node in to.iter() {
            self.add_edges((node, service, quantifier), from, (&mut network, SINK));
            if network.graph.edges() > EDGES_MAX {
                return Cut::TooLarge;
            }
        }
        self.cut(network)
    }

    fn cut(&self, mut network: Network) -> Cut {
        let (flow, reached) = network.graph.cut(SOURCE, SINK);
        if flow >= WIDE {
            return Cut::NotByRules;
        }
        let rules = network.rules.iter();
        let rules = rules.filter(|(_, vertex)| reached[**vertex] && !reached[**vertex + 1]);
        let mut places: Vec<(u32, u32)> = rules
            .map(|(slot, _)| self.relation.rule(*slot).place)
            .collect();
        places.sort_unstable();
        Cut::Rules(places)
    }

    /// From each of these sources that reaches a node, over the rules that let it, to a vertex.
    fn add_edges(
        &mut self,
        (node, service, quantifier): (usize, u32, Quantifier),
        sources: &Bits,
        (network, to): (&mut Network, usize),
    ) {
        let overlay = &self.overlays[&quantifier];
        if overlay.is_cut(node) {
            return;
        }
        // Where the node itself asks no rule, the rules at the source count.
        let direction = match overlay.is_open(node) || self.universe.outside().has(node) {
            true => Direction::Egress,
            false => Direction::Ingress,
        };
        let mut counts = sources.clone();
        overlay.keep_alive(&mut counts);
        if !self.universe.is_several(node) {
            counts.remove(node);
        }
        let allowing = self
            .relation
            .allowing(&self.universe, (node, service), direction);
        for (slot, mut bits) in allowing {
            bits.and(&counts);
            for source in bits
                .iter()
                .filter(|source| !overlay.is_quarantined(*source))
            {
                let (from, rule) = (network.node(source), network.rule(slot));
                network.join(from, rule);
                network.join(rule + 1, to);
            }
        }
        if direction == Direction::Ingress {
            return;
        }
        let outside = self.universe.outside();
        for source in counts.iter() {
            let free = overlay.is_open(source) || outside.has(source) && !outside.has(node);
            if free {
                let from = network.node(source);
                network.join(from, to);
            }
        }
    }

    fn targets(&self, never: &Never) -> Bits {
        let mut to = self.universe.bits(never.to).clone();
        to.and(self.universe.all());
        to
    }

    /// Everybody on a forbidden chain: reached from a source, and reaching a target.
    fn span(&mut self, never: &Never, from: &Bits) -> Span {
        let words = self.universe.words();
        let targets = self.targets(never);
        let search = self.search(never, (&Bits::empty(words), &targets));
        let mut stops: BTreeMap<usize, u32> = BTreeMap::new();
        for (distance, level) in (0..).zip(&search.levels).skip(1) {
            for node in level.iter() {
                stops.entry(node).or_insert(distance);
            }
        }
        let mut from_source = vec![from.clone()];
        let mut seen = from.clone();
        let mut row = Bits::empty(words);
        for _ in 1..never.hops.unwrap_or(u32::MAX) {
            let mut next = Bits::empty(words);
            let layer = from_source.last().unwrap_or(from).clone();
            for node in stops.keys().filter(|node| !seen.has(**node)) {
                let Some(service) = self.toward(never, *node, false) else {
                    continue;
                };
                let asked = (service, Join::Any);
                self.sources(*node, asked, never.quantifier(), &mut row);
                if row.meets(&layer) {
                    next.insert(*node);
                }
            }
            if next.is_empty() {
                break;
            }
            seen.or(&next);
            from_source.push(next);
        }
        Span { from_source, stops }
    }
}
