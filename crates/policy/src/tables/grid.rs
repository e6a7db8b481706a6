//! All peers and all ports, in groups that the rules of one end of one class cannot tell apart.

use super::fewest::{Layout, Weights};
use super::{APPLICATIONS, Line, Open, Tables};
use crate::evaluate::Report;
use crate::{Action, Log, RuleInfo};
use lictor_types::{AtomId, Direction, Verdict};
use std::collections::{BTreeMap, HashMap};

pub(super) const QUIET: Report = Report {
    on: false,
    limit: None,
};

pub(super) const fn verdict(action: Action) -> Verdict {
    match action {
        Action::Allow => Verdict::Allow,
        Action::Reject => Verdict::Reject,
        Action::Deny | Action::Pass => Verdict::Deny,
    }
}

/// What is known of a cell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// The line that decides.
    pub(crate) line: u32,
    pub(super) log: Report,
    /// A line that would hold on other days.
    pub(super) other_days: Option<u32>,
}

/// A set cut into groups by lists of its members.
#[derive(Debug)]
struct Cut {
    /// The group of each member.
    of: Vec<u32>,
    /// How many members each group has.
    sizes: Vec<u32>,
    /// The groups that each list covers.
    covered: Vec<Vec<u32>>,
}

impl Cut {
    /// Every list is a union of groups.
    fn of(count: usize, lists: &[&[u32]]) -> Self {
        let mut of = vec![0_u32; count];
        let mut sizes = vec![u32::try_from(count).unwrap_or(u32::MAX)];
        let mut hits: Vec<u32> = vec![0];
        let mut touched: Vec<u32> = Vec::new();
        let mut moved: HashMap<u32, u32> = HashMap::new();
        let narrow = |list: &&&[u32]| list.len() < count;
        for list in lists.iter().filter(narrow) {
            touched.clear();
            moved.clear();
            for member in *list {
                let group = of[*member as usize];
                if hits[group as usize] == 0 {
                    touched.push(group);
                }
                hits[group as usize] += 1;
            }
            for group in &touched {
                let inside = std::mem::take(&mut hits[*group as usize]);
                if inside < sizes[*group as usize] {
                    moved.insert(*group, u32::try_from(sizes.len()).unwrap_or(u32::MAX));
                    sizes[*group as usize] -= inside;
                    sizes.push(inside);
                    hits.push(0);
                }
            }
            for member in *list {
                let group = &mut of[*member as usize];
                *group = moved.get(group).copied().unwrap_or(*group);
            }
        }
        let covered = lists.iter().map(|list| {
            if list.len() == count {
                return (0..u32::try_from(sizes.len()).unwrap_or(u32::MAX)).collect();
            }
            let mut groups = Vec::new();
            for member in *list {
                let group = of[*member as usize];
                if std::mem::replace(&mut hits[group as usize], 1) == 0 {
                    groups.push(group);
                }
            }
            groups.iter().for_each(|group| hits[*group as usize] = 0);
            groups
        });
        let covered = covered.collect();
        Self { of, sizes, covered }
    }
}

/// The groups of peers and of atoms at one end of one class.
#[derive(Debug)]
pub(crate) struct Partition {
    /// The lines that speak here, in the order of evaluation, with the places of their peers and
    /// ports among the lists.
    lines: Vec<(u32, usize, usize)>,
    peers: Cut,
    /// Members are atoms less one.
    atoms: Cut,
}

impl Partition {
    pub(super) fn of(
        tables: &Tables<'_>,
        direction: Direction,
        lines: Vec<u32>,
        atoms: u32,
    ) -> Self {
        let (mut selectors, mut services) = (BTreeMap::new(), BTreeMap::new());
        for line in &lines {
            let line = &tables.lines[*line as usize];
            let next = selectors.len();
            selectors.entry(line.ends(direction).1).or_insert(next);
            let next = services.len();
            services.entry(line.service).or_insert(next);
        }
        let mut peers: Vec<&[u32]> = vec![&[]; selectors.len()];
        for (selector, place) in &selectors {
            peers[*place] = tables.members(*selector);
        }
        let mut ports: Vec<&[u32]> = vec![&[]; services.len()];
        for (service, place) in &services {
            ports[*place] = tables.service(*service);
        }
        let place = |number: u32| {
            let line = &tables.lines[number as usize];
            let (_, peer) = line.ends(direction);
            (number, selectors[&peer], services[&line.service])
        };
        Self {
            lines: lines.into_iter().map(place).collect(),
            peers: Cut::of(tables.classes(), &peers),
            atoms: Cut::of(atoms as usize, &ports),
        }
    }

    fn width(&self) -> usize {
        self.atoms.sizes.len()
    }

    /// What the chosen rules say, row by row: a row for each group of peers.
    pub(crate) fn slots(
        &self,
        tables: &Tables<'_>,
        chosen: impl Fn(&Line<'_>) -> bool,
    ) -> Vec<Option<Slot>> {
        let mut slots = vec![None; self.peers.sizes.len() * self.width()];
        for (number, peers, ports) in &self.lines {
            let line = &tables.lines[*number as usize];
            if !chosen(line) {
                continue;
            }
            for peer in &self.peers.covered[*peers] {
                for port in &self.atoms.covered[*ports] {
                    let cell = *peer as usize * self.width() + *port as usize;
                    write(tables, &mut slots[cell], *number);
                }
            }
        }
        let passes = |slot: &Slot| tables.lines[slot.line as usize].rule.action == Action::Pass;
        for slot in &mut slots {
            if slot.as_ref().is_some_and(passes) {
                *slot = None;
            }
        }
        slots
    }

    /// The cells of which something holds, as lists of atoms by class.
    pub(crate) fn open(&self, slots: &[Option<Slot>], holds: &dyn Fn(&Slot) -> bool) -> Open {
        let ports = self.ports();
        let lists = slots.chunks(self.width()).map(|row| {
            let inside = row.iter().zip(&ports);
            let inside = inside.filter(|(slot, _)| slot.as_ref().is_some_and(holds));
            let mut atoms: Vec<AtomId> = inside.flat_map(|(_, atoms)| atoms).copied().collect();
            atoms.sort_unstable();
            atoms
        });
        Open {
            lists: lists.collect(),
            of: self.peers.of.clone(),
        }
    }

    /// The atoms of each group.
    fn ports(&self) -> Vec<Vec<AtomId>> {
        let mut ports = vec![Vec::new(); self.width()];
        for (atom, group) in (1..).zip(&self.atoms.of) {
            ports[*group as usize].push(AtomId(atom));
        }
        ports
    }
}

/// A partition with a value for each cell.
pub(crate) struct Grid {
    pub(super) partition: Partition,
    pub(super) cells: Vec<u32>,
}

impl Grid {
    pub(super) fn weights(&self) -> Weights<'_> {
        Weights {
            rows: &self.partition.peers.sizes,
            columns: &self.partition.atoms.sizes,
        }
    }

    /// Calls `each` for each row of a layout; without a peer it is about everybody.
    pub(super) fn emit(&self, layout: &Layout, each: &mut dyn FnMut(Option<u32>, AtomId, u32)) {
        let ports = self.partition.ports();
        if layout.base != 0 {
            each(None, AtomId::ANY, layout.base);
        }
        for (column, atoms) in layout.columns.iter().zip(&ports) {
            for (value, atom) in column
                .iter()
                .flat_map(|value| atoms.iter().map(move |atom| (value, atom)))
            {
                each(None, *atom, *value);
            }
        }
        let width = self.partition.width();
        for (peer, group) in (0..).zip(&self.partition.peers.of) {
            let group = *group as usize;
            if let Some(value) = layout.rows[group] {
                each(Some(peer), AtomId::ANY, value);
            }
            for (column, atoms) in ports.iter().enumerate() {
                let value = self.cells[group * width + column];
                if value != layout.says(group, column) {
                    atoms.iter().for_each(|atom| each(Some(peer), *atom, value));
                }
            }
        }
    }
}

fn report(rule: &RuleInfo) -> Report {
    Report {
        on: rule.log != Log::Off,
        limit: rule.log_limit,
    }
}

/// The first rule of an ordered tier wins; where it passed, or none matched, the next tier's does.
/// Of the application rules those without a window come first; the one that allows most gives its
/// number, the first by name among equals, and any of them turns the log on.
fn write(tables: &Tables<'_>, cell: &mut Option<Slot>, number: u32) {
    let line = &tables.lines[number as usize];
    let slot = Slot {
        line: number,
        log: report(line.rule),
        other_days: None,
    };
    let Some(known) = cell else {
        *cell = Some(slot);
        return;
    };
    let before = &tables.lines[known.line as usize];
    if before.stage < line.stage && before.rule.action == Action::Pass {
        *known = slot;
    } else if before.stage == APPLICATIONS {
        merge(known, slot, (before.rule, line.rule));
    }
}

fn merge(known: &mut Slot, slot: Slot, (before, rule): (&RuleInfo, &RuleInfo)) {
    match (before.during, rule.during) {
        (None, Some(_)) => {}
        (Some(_), None) => *known = slot,
        (one, other) => {
            if one != other {
                known.other_days = Some(slot.line);
            }
            known.log = known.log.or(slot.log);
            let room = |rule: &RuleInfo| rule.limit.unwrap_or(u32::MAX);
            if room(rule) > room(before) {
                known.line = slot.line;
            }
        }
    }
}
