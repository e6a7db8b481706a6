//! The decisions of one class at a time, made of a compiled policy when a host needs them: a host
//! has few classes, and all of them together would have more rows than a release could carry.

mod fewest;
mod grid;

pub(crate) use grid::{Grid, Slot};

use crate::{Compiled, Labels, Mode, RuleInfo};
use fewest::{Layout, fewest};
use grid::Partition;
use lictor_types::{AtomId, Decision, Direction, IdentityId, RuleId, Verdict, Would};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The stage of application rules. Ordered tiers have their place.
pub(crate) const APPLICATIONS: u32 = u32::MAX;

/// Why a compiled policy is of no use: it was not made by the compiler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{list} of the compiled policy names number {number} of {of}; there are {have}; \
     compile it again"
)]
pub struct BrokenTables {
    list: &'static str,
    number: u32,
    of: &'static str,
    have: usize,
}

impl BrokenTables {
    pub(crate) const fn new(
        list: &'static str,
        number: u32,
        (of, have): (&'static str, usize),
    ) -> Self {
        Self {
            list,
            number,
            of,
            have,
        }
    }
}

/// A rule in force, with what it names looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    pub(crate) stage: u32,
    pub(crate) rule: &'a RuleInfo,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) service: u32,
}

impl Line<'_> {
    /// The selectors of the local end and of the other one.
    pub(crate) const fn ends(&self, direction: Direction) -> (u32, u32) {
        match direction {
            Direction::Egress => (self.from, self.to),
            Direction::Ingress => (self.to, self.from),
        }
    }
}

/// A compiled policy, ready to be asked.
#[derive(Debug)]
pub struct Tables<'a> {
    compiled: &'a Compiled,
    /// In the order of evaluation.
    pub(crate) lines: Vec<Line<'a>>,
    /// The classes that each selector matches, by place: 0 is the world, then the identities.
    members: Vec<Vec<u32>>,
    /// The lines that name a selector at each end.
    by_from: Vec<Vec<u32>>,
    by_to: Vec<Vec<u32>>,
    /// The atoms of each service, each less one: atom 0 is no atom.
    services: Vec<Vec<u32>>,
    atoms: u32,
    observed: bool,
}

impl<'a> Tables<'a> {
    /// Looks everything up once.
    ///
    /// # Errors
    /// [`BrokenTables`] if the lists do not belong together.
    pub fn of(compiled: &'a Compiled) -> Result<Self, BrokenTables> {
        let lines = compiled.lines.iter().map(|line| {
            let rule = compiled.rule(line.rule).ok_or(BrokenTables {
                list: "a line",
                number: line.rule.0,
                of: "the rules",
                have: compiled.rules.len(),
            })?;
            let (from, to, service) = (line.from, line.to, line.service);
            Ok(Line {
                stage: line.stage,
                rule,
                from,
                to,
                service,
            })
        });
        Self::with(compiled, lines.collect::<Result<_, _>>()?)
    }

    /// The same with lines of one's own.
    pub(crate) fn with(compiled: &'a Compiled, lines: Vec<Line<'a>>) -> Result<Self, BrokenTables> {
        let selectors = compiled.selectors.len();
        let place = |list, number: u32, of, have| {
            let broken = BrokenTables {
                list,
                number,
                of,
                have,
            };
            ((number as usize) < have)
                .then_some(number as usize)
                .ok_or(broken)
        };
        let mut members = vec![Vec::new(); selectors];
        let truths = compiled.identities.iter();
        let truths = truths.map(|one| (!one.quarantine, &one.selectors));
        for (class, (free, truth)) in (0..).zip([(true, &compiled.world)].into_iter().chain(truths))
        {
            for selector in truth {
                let selector = place("a class", *selector, "the selectors", selectors)?;
                if free {
                    members[selector].push(class);
                }
            }
        }
        let (mut by_from, mut by_to) = (vec![Vec::new(); selectors], vec![Vec::new(); selectors]);
        for (number, line) in (0..).zip(&lines) {
            by_from[place("a line", line.from, "the selectors", selectors)?].push(number);
            by_to[place("a line", line.to, "the selectors", selectors)?].push(number);
            place(
                "a line",
                line.service,
                "the services",
                compiled.services.len(),
            )?;
        }
        let atoms = compiled
            .atoms
            .iter()
            .map(|range| u32::from(range.atom.0))
            .max();
        let atoms = atoms.unwrap_or(0);
        let mut services = Vec::with_capacity(compiled.services.len());
        for service in &compiled.services {
            let atoms = service.atoms.iter().map(|atom| {
                let number = u32::from(atom.0).wrapping_sub(1);
                place("a service", number, "the atoms", atoms as usize).map(|_| number)
            });
            services.push(atoms.collect::<Result<Vec<u32>, _>>()?);
        }
        let observed = lines.iter().any(|line| line.rule.mode == Mode::Observe);
        Ok(Self {
            compiled,
            lines,
            members,
            by_from,
            by_to,
            services,
            atoms,
            observed,
        })
    }

    /// What the tables were made of.
    #[must_use]
    pub const fn compiled(&self) -> &'a Compiled {
        self.compiled
    }

    /// The number of the class at a place.
    pub(crate) fn class(&self, place: u32) -> IdentityId {
        let identities = &self.compiled.identities;
        let index = (place as usize).checked_sub(1);
        index.map_or(IdentityId::WORLD, |index| identities[index].id)
    }

    /// Places of classes, the world included.
    pub(crate) fn classes(&self) -> usize {
        self.compiled.identities.len() + 1
    }

    /// The selectors' members, by place.
    pub(crate) fn members(&self, selector: u32) -> &[u32] {
        &self.members[selector as usize]
    }

    /// The atoms of a service, each less one.
    pub(crate) fn service(&self, service: u32) -> &[u32] {
        &self.services[service as usize]
    }

    /// The lines that speak at one end of a class, in the order of evaluation.
    pub(crate) fn lines_of(&self, local: IdentityId, direction: Direction) -> Vec<u32> {
        let guest = |one: &&crate::Identity| !one.quarantine && !one.labels.is_empty();
        let Some(identity) = self.compiled.identity(local).filter(guest) else {
            return Vec::new();
        };
        let by = match direction {
            Direction::Egress => &self.by_from,
            Direction::Ingress => &self.by_to,
        };
        let truth = identity.selectors.iter();
        let mut lines: Vec<u32> = truth
            .flat_map(|selector| &by[*selector as usize])
            .copied()
            .filter(|line| self.lines[*line as usize].rule.at.covers(direction))
            .collect();
        lines.sort_unstable();
        lines
    }

    /// The decisions of a class, sorted: as few rows as were found to say it.
    #[must_use]
    pub fn decisions(&self, local: IdentityId) -> Vec<Decision> {
        let mut rows = Vec::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            let (values, grid, layout) = self.layout(local, direction);
            grid.emit(&layout, &mut |peer, atom, value| {
                rows.push(Decision {
                    peer: peer.map_or(IdentityId::ANY, |place| self.class(place)),
                    atom,
                    ..values.rows[value as usize]
                });
            });
        }
        rows.sort_unstable();
        rows
    }

    /// How many rows [`Self::decisions`] has, without making them.
    pub(crate) fn count(&self, local: IdentityId) -> usize {
        let each = [Direction::Egress, Direction::Ingress];
        let count = |direction| self.layout(local, direction).2.cost;
        usize::try_from(each.map(count).into_iter().sum::<u64>()).unwrap_or(usize::MAX)
    }

    /// Pairs of rules with different windows that allow the same at an end of a class.
    pub(crate) fn clashes(
        &self,
        local: IdentityId,
        direction: Direction,
    ) -> BTreeSet<(&str, &str)> {
        let partition = self.partition(local, direction);
        let modes: [&[Mode]; 2] = [&[Mode::Enforce], &[Mode::Enforce, Mode::Observe]];
        let mut found = BTreeSet::new();
        for modes in modes {
            let slots = partition.slots(self, |line| modes.contains(&line.rule.mode));
            let clash = |slot: &Slot| {
                let name = |line: u32| self.lines[line as usize].rule.name.as_str();
                Some((name(slot.line), name(slot.other_days?)))
            };
            found.extend(slots.iter().flatten().filter_map(clash));
        }
        found
    }

    pub(crate) fn partition(&self, local: IdentityId, direction: Direction) -> Partition {
        let lines = self.lines_of(local, direction);
        Partition::of(self, direction, lines, self.atoms)
    }

    fn layout(&self, local: IdentityId, direction: Direction) -> (Values, Grid, Layout) {
        let partition = self.partition(local, direction);
        let enforced = partition.slots(self, |line| line.rule.mode == Mode::Enforce);
        let all = match self.observed {
            true => partition.slots(self, |_| true),
            false => vec![None; enforced.len()],
        };
        let mut values = Values::of(local, direction);
        let observes = |slot: &Slot| self.lines[slot.line as usize].rule.mode == Mode::Observe;
        let cells = enforced.iter().zip(&all).map(|(slot, would)| {
            let would = would.as_ref().filter(|slot| observes(slot));
            values.number(self, slot.as_ref(), would)
        });
        let grid = Grid {
            cells: cells.collect(),
            partition,
        };
        let layout = fewest(&grid.weights(), &grid.cells);
        (values, grid, layout)
    }

    /// What a class may begin, or be asked for, on a day on which these rules have ended.
    #[must_use]
    pub fn open(&self, local: IdentityId, direction: Direction, ended: &BTreeSet<RuleId>) -> Open {
        let partition = self.partition(local, direction);
        let slots = partition.slots(self, |line| line.rule.mode == Mode::Enforce);
        let allows = |slot: &Slot| {
            let rule = self.lines[slot.line as usize].rule;
            rule.action == crate::Action::Allow && !ended.contains(&rule.id)
        };
        partition.open(&slots, &allows)
    }

    /// The classes by their label sets.
    #[must_use]
    pub fn by_labels(&self) -> HashMap<&'a Labels, IdentityId> {
        let identities = self.compiled.identities.iter();
        let sets = identities.flat_map(|one| one.labels.iter().map(move |set| (set, one.id)));
        sets.collect()
    }
}

/// The atoms that are open toward each class, by the class's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Which list each class has.
    pub(crate) of: Vec<u32>,
    /// Sorted lists of atoms.
    pub(crate) lists: Vec<Vec<AtomId>>,
}

/// What cells say, as numbers. 0 is nothing, which is the default deny.
struct Values {
    numbers: BTreeMap<Decision, u32>,
    rows: Vec<Decision>,
}

impl Values {
    fn of(local: IdentityId, direction: Direction) -> Self {
        let nothing = Decision {
            local,
            peer: IdentityId::ANY,
            direction,
            atom: AtomId::ANY,
            verdict: Verdict::Deny,
            rule: RuleId::DEFAULT,
            log: false,
            limit: 0,
            log_limit: 0,
            would: None,
        };
        Self {
            numbers: BTreeMap::from([(nothing, 0)]),
            rows: vec![nothing],
        }
    }

    /// What takes effect, and what would.
    fn number(&mut self, tables: &Tables<'_>, slot: Option<&Slot>, would: Option<&Slot>) -> u32 {
        if slot.is_none() && would.is_none() {
            return 0;
        }
        let reports = [slot, would].into_iter().flatten();
        let log = reports.fold(grid::QUIET, |log, slot| log.or(slot.log));
        let rule = |slot: &Slot| tables.lines[slot.line as usize].rule;
        let by = slot.map(rule);
        let row = Decision {
            verdict: by.map_or(Verdict::Deny, |rule| grid::verdict(rule.action)),
            rule: by.map_or(RuleId::DEFAULT, |rule| rule.id),
            log: log.on,
            limit: by.and_then(|rule| rule.limit).unwrap_or(0),
            log_limit: log.limit.unwrap_or(0),
            would: would.map(rule).map(|rule| Would {
                verdict: grid::verdict(rule.action),
                rule: rule.id,
            }),
            ..self.rows[0]
        };
        let next = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(row).or_insert(next);
        if number == next {
            self.rows.push(row);
        }
        number
    }
}
