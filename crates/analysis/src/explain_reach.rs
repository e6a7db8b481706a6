//! Who can reach what, directly: every pair of ends that may begin a session, with the rules that
//! let it pass at both ends. Ends that no selector tells apart are asked once.

use crate::explain::rule_name;
use crate::universe::{Kind, Universe};
use crate::{AnalysisError, Bits, RuleName};
use lictor_policy::evaluate::{Question, Ruling, evaluate};
use lictor_policy::{
    Claim, Date, End, Estate, Intent, Policy, PortRange, Rule, Selector, Service, Tier,
};
use lictor_types::{Protocol, Reason, RuleId, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Rows of one answer.
pub const REACH_ROWS_MAX: usize = 65_536;

/// Ends that are asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ends {
    /// A guest, or a host's own device, by its place among [`Universe::members`].
    Member(String),
    /// An address that no guest has.
    Address(IpAddr),
    /// What a selector matches.
    Selected(Selector),
}

/// Who may reach whom, over what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who begins.
    pub from: Ends,
    /// Who is asked.
    pub to: Ends,
    /// On which ports; on every IP port if nothing is said.
    pub service: Option<Service>,
    /// The day.
    pub date: Date,
}

/// Ends that may begin the same sessions by the same rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Who begins.
    pub from: Group,
    /// Who is asked.
    pub to: Group,
    /// On which ports.
    pub service: Service,
    /// What lets it pass at the source, if that is a guest.
    pub egress: Option<Lets>,
    /// What lets it pass at the destination, if that is a guest.
    pub ingress: Option<Lets>,
}

/// Ends that no selector tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// These guests and devices.
    Guests(Vec<String>),
    /// Outside addresses that are in all of these sets and in no other, as this one is.
    Outside {
        /// The sets.
        sets: Vec<String>,
        /// One of them.
        example: IpAddr,
    },
}

/// What lets a session pass at one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lets {
    /// Why.
    pub reason: Reason,
    /// The rule; none if the guest is only observed.
    pub rule: Option<RuleName>,
}

/// Lists who may reach whom.
///
/// # Errors
/// [`AnalysisError::Nodes`] if the estate has too many classes of ends, [`AnalysisError::Rows`] if
/// the answer would have too many rows.
pub fn reach(policy: &Policy, estate: &Estate, asked: &Asked) -> Result<Vec<Reach>, AnalysisError> {
    // The universe tells apart what intents name: the question is stated as one.
    let mut told = policy.clone();
    told.intents = vec![intent(asked)];
    let mut universe = Universe::of(&[&told], estate)?;
    let from = Chosen::of(&asked.from, &mut universe, policy)?;
    let to = Chosen::of(&asked.to, &mut universe, policy)?;
    let mut bits = |selector: &Selector| -> Result<Bits, AnalysisError> {
        let id = universe.select(selector)?;
        Ok(universe.bits(id).clone())
    };
    let mut ends = BTreeMap::new();
    for (_, rule) in policy.rules() {
        ends.insert(rule.id, [bits(&rule.from)?, bits(&rule.to)?]);
    }
    let search = Search {
        policy,
        universe: &universe,
        ends,
        asked,
    };
    search.rows(&from, &to)
}

fn intent(asked: &Asked) -> Intent {
    let selector = |ends: &Ends| match ends {
        Ends::Selected(selector) => selector.clone(),
        Ends::Member(_) | Ends::Address(_) => Selector::Any,
    };
    Intent {
        name: String::new(),
        claim: Claim::Only {
            from: selector(&asked.from),
            to: selector(&asked.to),
            service: Service::any(),
        },
        any_host: false,
        failures: 0,
        file: None,
        line: 0,
    }
}

/// Nodes, and of which of them only one end is meant.
struct Chosen {
    nodes: Vec<usize>,
    only: Option<Only>,
}

#[derive(Clone, Copy)]
enum Only {
    Member(usize),
    Address(IpAddr),
}

impl Chosen {
    fn of(ends: &Ends, universe: &mut Universe, policy: &Policy) -> Result<Self, AnalysisError> {
        let none = |name: &dyn std::fmt::Display| AnalysisError::NoPlace(name.to_string());
        match ends {
            Ends::Member(name) => {
                let members = universe.members();
                let place = members.iter().position(|member| member.name == *name);
                let place = place.ok_or_else(|| none(name))?;
                Ok(Self {
                    nodes: vec![universe.node_of(place)],
                    only: Some(Only::Member(place)),
                })
            }
            Ends::Address(address) => {
                let node = universe.node_of_address(*address, policy);
                Ok(Self {
                    nodes: vec![node.ok_or_else(|| none(address))?],
                    only: Some(Only::Address(*address)),
                })
            }
            Ends::Selected(selector) => {
                let id = universe.select(selector)?;
                let nodes = universe.bits(id).iter().collect();
                Ok(Self { nodes, only: None })
            }
        }
    }
}

struct Search<'a> {
    policy: &'a Policy,
    universe: &'a Universe,
    /// The nodes at both ends of each rule.
    ends: BTreeMap<RuleId, [Bits; 2]>,
    asked: &'a Asked,
}

impl Search<'_> {
    fn rows(&self, from: &Chosen, to: &Chosen) -> Result<Vec<Reach>, AnalysisError> {
        let mut rows = Vec::new();
        let mut shell = self.policy.clone();
        for destination in &to.nodes {
            let toward = self.narrowed(&self.policy.tiers, (1, *destination));
            for source in &from.nodes {
                let pair = [(*source, from.only), (*destination, to.only)];
                let Some((from, to)) = self.groups(pair) else {
                    continue;
                };
                shell.tiers = self.narrowed(&toward, (0, *source));
                for (service, [egress, ingress]) in self.passes(&shell, pair) {
                    if rows.len() == REACH_ROWS_MAX {
                        return Err(AnalysisError::Rows);
                    }
                    let (from, to) = (from.clone(), to.clone());
                    rows.push(Reach {
                        from,
                        to,
                        service,
                        egress,
                        ingress,
                    });
                }
            }
        }
        Ok(rows)
    }

    /// Only the rules that name a node at one side: the others say nothing of it. But to whoever
    /// gets a frame that is not IP the other end is nobody in particular.
    fn narrowed(&self, tiers: &[Tier], (side, node): (usize, usize)) -> Vec<Tier> {
        let asked = self.asked.service.iter().flat_map(Service::ranges);
        let frames = asked
            .map(|range| range.protocol)
            .any(|one| one == Protocol::Ether);
        let names = |rule: &&Rule| frames || self.ends[&rule.id][side].has(node);
        let tier = |tier: &Tier| Tier {
            name: tier.name.clone(),
            owner: tier.owner.clone(),
            within: None,
            rules: tier.rules.iter().filter(names).cloned().collect(),
            ..*tier
        };
        tiers.iter().map(tier).collect()
    }

    /// The names of both ends; none if they are one and the same guest, or both outside.
    fn groups(&self, [from, to]: [(usize, Option<Only>); 2]) -> Option<(Group, Group)> {
        match (self.group(from)?, self.group(to)?) {
            (Group::Outside { .. }, Group::Outside { .. }) => None,
            (Group::Guests(mut one), Group::Guests(mut other)) => {
                match (one.as_slice(), other.as_slice()) {
                    ([only], _) if from.0 == to.0 => other.retain(|name| name != only),
                    (_, [only]) if from.0 == to.0 => one.retain(|name| name != only),
                    _ => {}
                }
                let some = !one.is_empty() && !other.is_empty();
                some.then_some((Group::Guests(one), Group::Guests(other)))
            }
            ends => Some(ends),
        }
    }

    fn group(&self, (node, only): (usize, Option<Only>)) -> Option<Group> {
        let members = self.universe.members();
        match (&self.universe.nodes()[node], only) {
            (_, Some(Only::Member(place))) => {
                Some(Group::Guests(vec![members[place].name.clone()]))
            }
            (Kind::Guests(places), _) => {
                let names = places
                    .iter()
                    .map(|place| members[*place as usize].name.clone());
                Some(Group::Guests(names.collect())).filter(|_| !places.is_empty())
            }
            (Kind::Outside(example), only) => {
                let example = match only {
                    Some(Only::Address(address)) => address,
                    _ => *example,
                };
                let holds =
                    |prefixes: &[ipnet::IpNet]| prefixes.iter().any(|one| one.contains(&example));
                let sets = self.policy.sets.iter();
                let sets = sets.filter(|(_, prefixes)| holds(prefixes));
                let sets = sets.map(|(name, _)| name.clone()).collect();
                Some(Group::Outside { sets, example })
            }
        }
    }

    fn end(&self, (node, only): (usize, Option<Only>)) -> End {
        match (&self.universe.nodes()[node], only) {
            (_, Some(Only::Member(place))) => {
                End::Guest(self.universe.members()[place].labels.clone())
            }
            (_, Some(Only::Address(address))) => End::Address(address),
            (Kind::Outside(example), None) => End::Address(*example),
            (Kind::Guests(_), None) => {
                End::Guest(self.universe.labels(node).cloned().unwrap_or_default())
            }
        }
    }

    /// What passes between two ends, in runs that the same rules let pass.
    fn passes(
        &self,
        policy: &Policy,
        [from, to]: [(usize, Option<Only>); 2],
    ) -> Vec<(Service, [Option<Lets>; 2])> {
        let mut question = Question {
            source: self.end(from),
            destination: self.end(to),
            protocol: Protocol::Tcp,
            port: 0,
            date: self.asked.date,
        };
        let mut runs: Vec<(Vec<PortRange>, [Option<Ruling>; 2])> = Vec::new();
        for range in self.cut(policy) {
            (question.protocol, question.port) = (range.protocol, range.first);
            let answer = evaluate(policy, &question);
            if answer.verdict != Verdict::Allow {
                continue;
            }
            let said = [answer.egress, answer.ingress];
            let rule = |ruling: &Option<Ruling>| ruling.map(|ruling| ruling.rule);
            let same = runs
                .iter_mut()
                .find(|(_, known)| (0..2).all(|end| rule(&known[end]) == rule(&said[end])));
            match same {
                Some((ranges, _)) => ranges.push(range),
                None => runs.push((vec![range], said)),
            }
        }
        let lets = |ruling: Option<Ruling>| ruling.map(|ruling| lets(policy, &ruling));
        let runs = runs.into_iter();
        runs.map(|(ranges, said)| (Service::new(ranges), said.map(lets)))
            .collect()
    }

    /// The ports that are asked about, cut wherever a rule's service begins or ends.
    fn cut(&self, policy: &Policy) -> Vec<PortRange> {
        let any = Service::any();
        let asked = self.asked.service.as_ref().unwrap_or(&any);
        let services: BTreeSet<&Service> = policy.rules().map(|(_, rule)| &rule.service).collect();
        let mut cuts: BTreeSet<(Protocol, u32)> = BTreeSet::new();
        for range in services.iter().flat_map(|service| service.ranges()) {
            cuts.insert((range.protocol, range.first.into()));
            cuts.insert((range.protocol, u32::from(range.last) + 1));
        }
        let mut parts = Vec::new();
        for range in asked.ranges() {
            let (protocol, end) = (range.protocol, u32::from(range.last) + 1);
            let inside = cuts.range((protocol, u32::from(range.first) + 1)..(protocol, end));
            let mut first = u32::from(range.first);
            for next in inside.map(|(_, at)| *at).chain([end]) {
                if let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(next - 1)) {
                    parts.push(PortRange {
                        protocol,
                        first,
                        last,
                    });
                }
                first = next;
            }
        }
        parts
    }
}

fn lets(policy: &Policy, ruling: &Ruling) -> Lets {
    let named = |id: RuleId| policy.rules().find(|(_, rule)| rule.id == id);
    let rule = ruling.rule.and_then(named);
    Lets {
        reason: ruling.reason(),
        rule: rule.map(|(tier, rule)| rule_name(tier, rule)),
    }
}
