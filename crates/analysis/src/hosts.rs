//! Intents about hosts: the controls that they have, and who runs beside whom.

use crate::overlay::Placements;
use crate::prove::{Prover, placements};
use lictor_policy::{Claim, ControlName, Interpretation, Labels, Policy, Selector};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The label that names a guest's primary function, where a policy declares it.
pub const FUNCTION_LABEL: &str = "fn";

/// What is wrong with a host. Members and hosts are places in the universe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostBreach {
    /// A guest may be on a host without a control.
    Lacks {
        /// The guest.
        member: usize,
        /// The host.
        host: usize,
        /// The control.
        control: ControlName,
    },
    /// Nobody knows where a guest is.
    Unknown {
        /// The guest.
        member: usize,
    },
    /// Two guests that must not meet may be on one host.
    Together {
        /// One of them.
        one: usize,
        /// The other.
        other: usize,
        /// The host.
        host: usize,
    },
}

impl HostBreach {
    /// Whether it is about a member.
    pub(crate) fn names(&self, asked: usize) -> bool {
        match self {
            Self::Lacks { member, .. } | Self::Unknown { member } => *member == asked,
            Self::Together { one, other, .. } => [*one, *other].contains(&asked),
        }
    }
}

/// A guest on a host where it is or may be, as the checker takes it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct HostClaim {
    guest: usize,
    host: usize,
    home: Option<usize>,
    lacks: bool,
    kinds: (bool, bool),
    function: usize,
}

/// The two kinds of guests that must not meet.
struct Kinds {
    ones: Vec<usize>,
    others: Vec<usize>,
    /// Only pairs with this one.
    only: Option<usize>,
    interpretation: Interpretation,
}

impl Kinds {
    /// Leaves out who is in no pair that is asked for.
    fn narrow(&mut self) {
        let Some(only) = self.only else {
            return;
        };
        let (is_one, is_other) = (self.ones.contains(&only), self.others.contains(&only));
        match (is_one, is_other) {
            (true, true) => {}
            (true, false) => self.ones = vec![only],
            (false, true) => self.others = vec![only],
            (false, false) => (self.ones, self.others) = (Vec::new(), Vec::new()),
        }
    }
}

impl Prover {
    /// What is wrong on the hosts; of one member if only that one is asked for.
    pub(crate) fn host_breach(&self, intent: usize, only: Option<usize>) -> Option<HostBreach> {
        let intent = &self.policy.intents[intent];
        let (placements, failures) = (placements(intent), intent.failures as usize);
        let asked = |member: usize| {
            let ends = intent.claim.selectors().into_iter();
            let mut sets = ends.filter_map(|selector| self.universe.known(selector));
            sets.any(|bits| bits.has(self.universe.node_of(member)))
        };
        if only.is_some_and(|member| !asked(member)) {
            return None;
        }
        match &intent.claim {
            Claim::Controls { guests, controls } => {
                let members = only.map_or_else(|| self.members_of(guests), |only| vec![only]);
                self.lacking(&members, controls, placements)
            }
            Claim::Apart {
                one,
                other,
                interpretation,
            } => {
                let limit = (!intent.any_host).then_some(failures);
                let kinds = Kinds {
                    ones: self.members_of(one),
                    others: self.members_of(other),
                    only,
                    interpretation: *interpretation,
                };
                self.together(kinds, (placements, limit))
            }
            _ => None,
        }
    }

    /// Every guest of an intent about hosts, on each host where it is or may be.
    pub(crate) fn host_claims(&self, intent: usize) -> Vec<HostClaim> {
        let one = &self.policy.intents[intent];
        let placements = placements(one);
        let mut claims = Vec::new();
        let mut add = |member: usize,
                       kinds: (bool, bool),
                       function: usize,
                       controls: &[ControlName]| {
            let home = self.universe.members()[member]
                .host
                .map(|host| host as usize);
            let hosts = self.hosts_of(member, placements);
            // Who is nowhere has no control.
            let hosts = match hosts.is_empty() && !controls.is_empty() {
                true => vec![self.universe.hosts().len()],
                false => hosts,
            };
            for host in hosts {
                let has = |control: &ControlName| {
                    let host = self.estate.hosts.get(host);
                    host.is_some_and(|one| one.controls.iter().any(|own| own == control.as_str()))
                };
                claims.push(HostClaim {
                    guest: member,
                    host,
                    home,
                    lacks: !controls.iter().all(has),
                    kinds,
                    function,
                });
            }
        };
        match &one.claim {
            Claim::Controls { guests, controls } => {
                let members = self.members_of(guests).into_iter();
                members.for_each(|member| add(member, (false, false), member, controls));
            }
            Claim::Apart {
                one,
                other,
                interpretation,
            } if *interpretation != Interpretation::Hypervisor => {
                let strict = *interpretation == Interpretation::Strict;
                let (ones, others) = (self.members_of(one), self.members_of(other));
                let ones: BTreeSet<usize> = ones.into_iter().collect();
                let others: BTreeSet<usize> = others.into_iter().collect();
                let mut functions = BTreeMap::new();
                for member in ones.union(&others) {
                    let is_one = ones.contains(member);
                    let kinds = (is_one, others.contains(member) || strict && is_one);
                    let labels = &self.universe.members()[*member].labels;
                    let next = functions.len();
                    let known = functions
                        .entry(function(&self.policy, labels))
                        .or_insert(next);
                    let function = if strict { *known } else { *member };
                    add(*member, kinds, function, &[]);
                }
            }
            _ => {}
        }
        claims
    }

    /// Members that a selector of an intent matches: the universe has turned all of them.
    fn members_of(&self, selector: &Selector) -> Vec<usize> {
        let Some(bits) = self.universe.known(selector) else {
            return Vec::new();
        };
        let members = 0..self.universe.members().len();
        members
            .filter(|member| bits.has(self.universe.node_of(*member)))
            .collect()
    }

    /// The hosts that a member is or may be on.
    pub(crate) fn hosts_of(&self, member: usize, placements: Placements) -> Vec<usize> {
        let one = &self.universe.members()[member];
        let own = one.host.iter();
        let own = own.map(|host| *host as usize);
        match placements {
            Placements::Now if one.host.is_some() => own.collect(),
            _ if one.may_run_on.is_empty() => (0..self.universe.hosts().len()).collect(),
            _ => {
                let may = one
                    .may_run_on
                    .iter()
                    .filter(|host| Some(**host) != one.host);
                own.chain(may.map(|host| *host as usize)).collect()
            }
        }
    }

    fn lacking(
        &self,
        members: &[usize],
        controls: &[ControlName],
        placements: Placements,
    ) -> Option<HostBreach> {
        let lacks = |host: usize| {
            let has = &self.estate.hosts[host].controls;
            let mut missing = controls
                .iter()
                .filter(|control| !has.iter().any(|one| one == control.as_str()));
            missing.next().cloned()
        };
        let lacking: Vec<Option<ControlName>> =
            (0..self.universe.hosts().len()).map(lacks).collect();
        members.iter().find_map(|member| {
            let member = *member;
            let hosts = self.hosts_of(member, placements);
            if hosts.is_empty() {
                return Some(HostBreach::Unknown { member });
            }
            hosts.into_iter().find_map(|host| {
                let control = lacking[host].clone()?;
                Some(HostBreach::Lacks {
                    member,
                    host,
                    control,
                })
            })
        })
    }

    fn together(
        &self,
        mut kinds: Kinds,
        (placements, failures): (Placements, Option<usize>),
    ) -> Option<HostBreach> {
        let strict = match kinds.interpretation {
            Interpretation::Hypervisor => return None,
            Interpretation::Strict => true,
            Interpretation::ZoneBased => false,
        };
        if strict {
            // Of one function are all guests of a host, those of one kind among themselves too.
            kinds.others.extend(&kinds.ones);
        }
        kinds.narrow();
        let on_hosts = |members: &[usize]| {
            let mut hosts = vec![Vec::new(); self.universe.hosts().len()];
            for member in members {
                for host in self.hosts_of(*member, placements) {
                    hosts[host].push(*member);
                }
            }
            hosts
        };
        let clash = |one: usize, other: usize| {
            let asked = kinds.only.is_none_or(|only| one == only || other == only);
            asked && one != other && (!strict || self.functions_differ(one, other))
        };
        let (first, second) = (on_hosts(&kinds.ones), on_hosts(&kinds.others));
        for (host, (first, second)) in first.iter().zip(&second).enumerate() {
            for one in first {
                let meets = |other: &&usize| {
                    clash(*one, **other) && self.meets(host, [*one, **other], failures)
                };
                if let Some(other) = second.iter().find(meets) {
                    let (one, other) = (*one, *other);
                    return Some(HostBreach::Together { one, other, host });
                }
            }
        }
        None
    }

    /// Whether both can be on a host at once, with so many hosts failed that they left.
    fn meets(&self, host: usize, members: [usize; 2], failures: Option<usize>) -> bool {
        let Some(failures) = failures else {
            return true;
        };
        let from = members.map(|member| self.universe.members()[member].host);
        let left: BTreeSet<u32> = from
            .into_iter()
            .flatten()
            .filter(|from| *from as usize != host)
            .collect();
        left.len() <= failures
    }

    fn functions_differ(&self, one: usize, other: usize) -> bool {
        let members = self.universe.members();
        function(&self.policy, &members[one].labels)
            != function(&self.policy, &members[other].labels)
    }
}

/// A guest's primary function: its label `fn`, and all its labels where the policy has none.
fn function<'a>(policy: &Policy, labels: &'a Labels) -> (Option<&'a String>, Option<&'a Labels>) {
    match policy.labels.contains_key(FUNCTION_LABEL) {
        true => (labels.get(FUNCTION_LABEL), None),
        false => (None, Some(labels)),
    }
}
