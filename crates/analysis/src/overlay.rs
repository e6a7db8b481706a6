//! What is laid over the rules: quarantine, observe mode, and hosts that enforce nothing.
//!
//! A guest on a host without the firewall is cut from the network or open to everybody, as its
//! owner chose. Over every host that a guest may run on that is one bit for each node, so that a
//! proof over all placements costs what a proof over one of them costs.

use crate::Bits;
use crate::row::Row;
use crate::universe::{Kind, Universe};
use lictor_policy::{Cause, Choice, Date, Policy};

/// Where guests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Placements {
    /// Where they are now.
    Now,
    /// On any host that they may run on.
    Any,
}

/// How many placements, and of guests that are one node, it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Quantity {
    /// One suffices: for what must never be.
    Some,
    /// Each must: for what must always be.
    Every,
}

/// Over what something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Quantifier {
    pub(crate) placements: Placements,
    pub(crate) quantity: Quantity,
}

/// Whether the owner lets a guest run without protection.
fn opens(policy: &Policy, universe: &Universe, node: usize, date: Date) -> bool {
    let Some(labels) = universe.labels(node).filter(|one| !policy.quarantines(one)) else {
        return false;
    };
    let end = lictor_policy::End::Guest(labels.clone());
    let choices = policy.choices.iter().filter(|one| {
        one.cause == Cause::HostUnprotected
            && one.expires.is_none_or(|expires| date <= expires)
            && one.guests.matches(&end, &policy.sets)
    });
    let mut chosen = choices.map(|one| one.choice).peekable();
    // The strictest holds, and without any the default does, which blocks.
    chosen.peek().is_some() && chosen.all(|choice| choice == Choice::AllowWithAlarm)
}

/// What holds of the nodes whatever the rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// Ends at which no rule is asked: open, observed, outside.
    exempt: Bits,
    /// Guests among them.
    open: Bits,
    /// Guests that their hosts leave unprotected, and whose owners let them run.
    pub(crate) unprotected: Bits,
    /// Guests in quarantine.
    quarantined: Bits,
    outside: Bits,
    /// Guests that are cut from the network, and nodes that all members have left. A row is laid by
    /// taking out few, not by keeping many.
    dead: Bits,
}

impl Overlay {
    pub(crate) fn of(
        (policy, universe): (&Policy, &Universe),
        (quantifier, date): (Quantifier, Date),
    ) -> Self {
        let words = universe.words();
        let mut overlay = Self {
            exempt: universe.outside().clone(),
            open: Bits::empty(words),
            unprotected: Bits::empty(words),
            quarantined: Bits::empty(words),
            outside: universe.outside().clone(),
            dead: Bits::empty(words),
        };
        for node in 0..universe.nodes().len() {
            overlay.look((policy, universe), (node, quantifier, date));
        }
        overlay
    }

    /// Looks at one node again: its members, their hosts and their labels.
    pub(crate) fn look(
        &mut self,
        (policy, universe): (&Policy, &Universe),
        (node, quantifier, date): (usize, Quantifier, Date),
    ) {
        let Kind::Guests(members) = &universe.nodes()[node] else {
            return;
        };
        self.dead.set(node, members.is_empty());
        let Some((first, labels)) = members.first().zip(universe.labels(node)) else {
            return;
        };
        // All members of a node are alike: where one may be unprotected, each may.
        let weak = universe.members()[*first as usize].weak;
        let (some, every) = match quantifier.placements {
            Placements::Now => (weak.now, weak.now),
            Placements::Any => (weak.some, weak.every),
        };
        let (exposed, cut) = match quantifier.quantity {
            Quantity::Some => (some, every),
            Quantity::Every => (every, some),
        };
        let opens = (exposed || cut) && opens(policy, universe, node, date);
        let observed = policy.observes(labels, date);
        self.unprotected.set(node, opens && exposed);
        self.open.set(node, observed || opens && exposed);
        self.exempt.set(node, observed || opens && exposed);
        self.quarantined.set(node, policy.quarantines(labels));
        self.dead.set(node, cut && !opens);
    }

    pub(crate) fn is_cut(&self, node: usize) -> bool {
        self.dead.has(node)
    }

    /// Takes out who is cut.
    pub(crate) fn keep_alive(&self, bits: &mut Bits) {
        bits.without(&self.dead);
    }

    pub(crate) fn is_open(&self, node: usize) -> bool {
        self.open.has(node)
    }

    pub(crate) fn is_quarantined(&self, node: usize) -> bool {
        self.quarantined.has(node)
    }

    /// Whether one source is among those that [`Self::lay`] gives.
    pub(crate) fn lets(
        &self,
        universe: &Universe,
        (node, row): (usize, &Row),
        source: usize,
    ) -> bool {
        let dead = self.dead.has(node) || self.dead.has(source);
        if dead || node == source && !universe.is_several(node) {
            return false;
        }
        let exempt = self.exempt.has(source);
        let asked = !self.quarantined.has(source);
        if self.outside.has(node) {
            (row.egress().has(source) && asked || exempt) && !self.outside.has(source)
        } else if self.open.has(node) {
            let rules = asked && !self.quarantined.has(node);
            row.egress().has(source) && rules || exempt
        } else {
            let rules = row.both.has(source) && asked || row.ingress().has(source) && exempt;
            rules && !self.quarantined.has(node)
        }
    }

    /// The sources that reach a node, of those that rules allow and those that no rule is asked of.
    pub(crate) fn lay(&self, universe: &Universe, (node, row): (usize, &Row), out: &mut Bits) {
        out.clear();
        if self.dead.has(node) {
            return;
        }
        if self.outside.has(node) {
            out.or(row.egress());
            out.without(&self.quarantined);
            out.or(&self.exempt);
            out.without(&self.outside);
        } else if self.open.has(node) {
            if !self.quarantined.has(node) {
                out.or(row.egress());
                out.without(&self.quarantined);
            }
            out.or(&self.exempt);
        } else if !self.quarantined.has(node) {
            out.or(&row.both);
            out.without(&self.quarantined);
            out.or_and(row.ingress(), &self.exempt);
        }
        out.without(&self.dead);
        if !universe.is_several(node) {
            out.remove(node);
        }
    }
}
