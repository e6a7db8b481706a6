//! What was found, in names: chains hop by hop, placements, rules and their owners.

use crate::decide::{Because, Said};
use crate::hosts::HostBreach;
use crate::overlay::{Placements, Quantifier, Quantity};
use crate::prove::{Breach, Chain, Prover, Verdict, placements};
use crate::remedy::Cut;
use crate::universe::Kind;
use lictor_policy::{Claim, Labels, PortRange, Service};
use lictor_types::Protocol;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A source port that no service has of its own: the first of RFC 6335's dynamic ones.
const SOURCE_PORT: u16 = 49_152;

/// Of a service without any port, which the language has none of.
const NO_PORT: (Protocol, u16) = (Protocol::Tcp, 0);

/// An intent and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name.
    pub intent: String,
    /// What it says.
    pub statement: String,
    /// The file in which it stands, if the policy has several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// The line on which it stands.
    pub line: usize,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Held {
        /// One of its selectors matches nobody, so that it says nothing.
        vacuous: bool,
    },
    /// It does not.
    Failed {
        /// Why.
        counterexample: Box<Counterexample>,
        /// What to change.
        remedy: Remedy,
    },
}

/// Whether what is shown can happen all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Likelihood {
    /// A joint placement exists: it is shown.
    Confirmed,
    /// Each part can happen, but no joint placement was found.
    Possible,
}

/// Where a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The guest.
    pub guest: String,
    /// Its host.
    pub host: String,
    /// Whether it has to move there first.
    pub moved: bool,
}

/// One end of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndName {
    /// The guest's name, or the outside address.
    pub name: String,
    /// Its labels; none if it is an outside address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub labels: Option<Labels>,
    /// Its host, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
}

/// The first packet of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The protocol class.
    pub protocol: Protocol,
    /// The source's address, if it is known.
    pub source: Option<IpAddr>,
    /// The source's port, of protocols that have ports.
    pub source_port: Option<u16>,
    /// The destination's address, if it is known.
    pub destination: Option<IpAddr>,
    /// The destination's port, or what stands in its place.
    pub port: u16,
    /// Protocol and port, as the language writes them.
    pub service: String,
}

/// A rule, and who answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    /// `tier/rule`.
    pub name: String,
    /// Who answers for it.
    pub owner: Option<String>,
    /// The file in which it stands, if the policy has several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// The line on which it begins.
    pub line: usize,
}

/// What one end says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaidHow {
    /// Whether the session passes there.
    pub allows: bool,
    /// The rule that decides, if one does.
    pub rule: Option<RuleName>,
    /// Why, in words.
    pub because: Words,
}

/// Why an end says what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Words {
    /// A rule decides.
    Rule,
    /// No rule does: everything that no rule allows is denied.
    DefaultDeny,
    /// An end is in quarantine.
    Quarantine,
    /// The guest is only observed.
    Observed,
    /// The host enforces nothing, and the owner lets the guest run.
    HostUnprotected,
    /// The host enforces nothing, so the guest is cut from the network.
    HostUnprotectedBlock,
    /// It is an outside address, at which nothing is enforced.
    Outside,
}

/// One session of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Who begins.
    pub from: EndName,
    /// Who is asked.
    pub to: EndName,
    /// Its first packet.
    pub packet: Packet,
    /// What the end says that begins.
    pub egress: SaidHow,
    /// What the end says that is asked.
    pub ingress: SaidHow,
}

/// Why an intent does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Counterexample {
    /// A chain of sessions that are allowed.
    Path {
        /// The sessions.
        hops: Vec<Hop>,
        /// Whether all of it can happen at once.
        likelihood: Likelihood,
        /// Where the guests are then.
        placement: Vec<Placed>,
        /// Hosts that have failed then.
        failed_hosts: Vec<String>,
        /// Whether it begins at an outside address, which anybody on the fabric can forge.
        spoofable: bool,
        /// Who sends the first packet, if its source is forged.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        forged_by: Option<EndName>,
    },
    /// A session that is not allowed.
    Denied {
        /// The session.
        hop: Box<Hop>,
        /// Whether all of it can happen at once.
        likelihood: Likelihood,
        /// Where the guests are then.
        placement: Vec<Placed>,
        /// Hosts that have failed then.
        failed_hosts: Vec<String>,
    },
    /// A host without a control.
    Lacks {
        /// The guest.
        guest: EndName,
        /// The host that it is or may be on.
        host: String,
        /// The control.
        control: String,
    },
    /// A guest of which nobody knows where it is.
    Nowhere {
        /// The guest.
        guest: EndName,
    },
    /// Two guests that are or may be on one host.
    Together {
        /// One of them.
        one: EndName,
        /// The other.
        other: EndName,
        /// The host.
        host: String,
    },
}

/// What to change so that an intent holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Remedy {
    /// As few rules as possible: without these, no forbidden session or chain is left; or these
    /// deny what must be allowed.
    Rules {
        /// The rules.
        rules: Vec<RuleName>,
    },
    /// No rule's change suffices.
    Otherwise {
        /// What would.
        what: String,
    },
}

impl Prover {
    /// What became of every intent, in the order of the policy.
    pub fn findings(&mut self) -> Vec<Finding> {
        (0..self.policy.intents.len())
            .map(|intent| self.finding(intent))
            .collect()
    }

    /// What became of one intent, by its place in the policy.
    pub fn finding(&mut self, intent: usize) -> Finding {
        let verdict = self.verdict(intent);
        self.told(intent, &verdict)
    }

    /// A verdict in names.
    pub fn told(&mut self, intent: usize, verdict: &Verdict) -> Finding {
        let one = self.policy.intents[intent].clone();
        let outcome = match verdict {
            Verdict::Held => {
                let nobody = |selector: &lictor_policy::Selector| {
                    let known = self.universe.select(selector);
                    known.is_ok_and(|id| !self.universe.bits(id).meets(self.universe.all()))
                };
                // An exception for nobody takes nothing away.
                let ends = match &one.claim {
                    Claim::NeverPath { from, to, .. } => vec![from, to],
                    Claim::Only { to, .. } => vec![to],
                    claim => claim.selectors(),
                };
                let vacuous = ends.into_iter().any(nobody);
                Outcome::Held { vacuous }
            }
            Verdict::Failed(breach) => Outcome::Failed {
                counterexample: Box::new(self.counterexample(intent, breach)),
                remedy: self.remedy(intent, breach),
            },
        };
        Finding {
            intent: one.name.clone(),
            statement: one.statement(),
            file: one.file.clone(),
            line: one.line,
            outcome,
        }
    }

    fn quantifier(&self, intent: usize, quantity: Quantity) -> Quantifier {
        Quantifier {
            placements: placements(&self.policy.intents[intent]),
            quantity,
        }
    }

    fn counterexample(&mut self, intent: usize, breach: &Breach) -> Counterexample {
        match breach {
            Breach::Chain(chain) => self.path(intent, chain),
            Breach::Missing(source, node) => {
                let quantifier = self.quantifier(intent, Quantity::Every);
                let members = self.people(&[*source, *node]);
                let service = self.claimed(intent);
                let ports = self.relation.ports(*node, service);
                let denied = |port: &&(Protocol, u16)| {
                    let said = self.said((*source, *node), **port, quantifier);
                    !said.iter().all(|one| one.allows)
                };
                let port = ports.iter().find(denied).or(ports.first()).copied();
                let port = port.unwrap_or(NO_PORT);
                let hop = self.hop(
                    (*source, *node),
                    (members[0], members[1]),
                    (port, quantifier),
                );
                let (likelihood, placement, failed_hosts) =
                    self.placement(intent, &needs(std::slice::from_ref(&hop), &members));
                Counterexample::Denied {
                    hop: Box::new(hop),
                    likelihood,
                    placement,
                    failed_hosts,
                }
            }
            Breach::Host(breach) => self.on_hosts(breach),
        }
    }

    fn on_hosts(&self, breach: &HostBreach) -> Counterexample {
        let end = |member: usize| self.member_name(member);
        let host = |host: usize| self.universe.hosts()[host].clone();
        match breach {
            HostBreach::Lacks {
                member,
                host: at,
                control,
            } => Counterexample::Lacks {
                guest: end(*member),
                host: host(*at),
                control: control.to_string(),
            },
            HostBreach::Unknown { member } => Counterexample::Nowhere {
                guest: end(*member),
            },
            HostBreach::Together {
                one,
                other,
                host: at,
            } => Counterexample::Together {
                one: end(*one),
                other: end(*other),
                host: host(*at),
            },
        }
    }

    fn path(&mut self, intent: usize, chain: &Chain) -> Counterexample {
        let quantifier = self.quantifier(intent, Quantity::Some);
        let members = self.people(&chain.nodes);
        let mut hops = Vec::new();
        let last = chain.nodes.len() - 1;
        for at in 0..last {
            let ends = (chain.nodes[at], chain.nodes[at + 1]);
            let service = match self.never(intent).cloned() {
                Some(never) => self.toward(&never, ends.1, at + 1 == last),
                None => Some(self.claimed(intent)),
            };
            let ports = service.map(|service| self.relation.ports(ends.1, service));
            let ports = ports.unwrap_or_default();
            let passes = |port: &&(Protocol, u16)| {
                let said = self.said(ends, **port, quantifier);
                said.iter().all(|one| one.allows)
            };
            let port = ports.iter().find(passes).or(ports.first()).copied();
            let port = port.unwrap_or(NO_PORT);
            hops.push(self.hop(ends, (members[at], members[at + 1]), (port, quantifier)));
        }
        let (likelihood, placement, failed_hosts) = self.placement(intent, &needs(&hops, &members));
        let outside = self.universe.outside().has(chain.nodes[0]);
        Counterexample::Path {
            hops,
            likelihood,
            placement,
            failed_hosts,
            spoofable: outside && !self.estate.fabric_trusted,
            forged_by: chain.forged_by.map(|node| self.end_name(node, None)),
        }
    }

    /// The service of the claim.
    fn claimed(&mut self, intent: usize) -> u32 {
        let service = match &self.policy.intents[intent].claim {
            Claim::NeverPath { service, .. } => service.clone(),
            Claim::AlwaysPath { service, .. } | Claim::Only { service, .. } => {
                Some(service.clone())
            }
            Claim::Controls { .. } | Claim::Apart { .. } => None,
        };
        self.relation.service(&service.unwrap_or_else(Service::any))
    }

    /// A member of each node, another one where a node comes twice and has one.
    fn people(&self, nodes: &[usize]) -> Vec<Option<usize>> {
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        let mut people = Vec::new();
        for node in nodes {
            people.push(match &self.universe.nodes()[*node] {
                Kind::Outside(_) => None,
                Kind::Guests(members) => {
                    let free = members.iter().find(|member| !taken.contains(member));
                    let member = free.or(members.first());
                    taken.extend(member);
                    member.map(|member| *member as usize)
                }
            });
        }
        people
    }

    fn member_name(&self, member: usize) -> EndName {
        let one = &self.universe.members()[member];
        let host = one
            .host
            .map(|host| self.universe.hosts()[host as usize].clone());
        EndName {
            name: one.name.clone(),
            labels: Some(one.labels.clone()),
            host,
        }
    }

    fn end_name(&self, node: usize, member: Option<usize>) -> EndName {
        match (&self.universe.nodes()[node], member) {
            (Kind::Guests(_), Some(member)) => self.member_name(member),
            (Kind::Outside(address), _) => EndName {
                name: address.to_string(),
                labels: None,
                host: None,
            },
            (Kind::Guests(_), None) => EndName {
                name: String::new(),
                labels: None,
                host: None,
            },
        }
    }

    fn address(&self, node: usize, member: Option<usize>) -> Option<IpAddr> {
        match (&self.universe.nodes()[node], member) {
            (Kind::Outside(address), _) => Some(*address),
            (Kind::Guests(_), member) => self.universe.members()[member?].address,
        }
    }

    fn hop(
        &self,
        (source, node): (usize, usize),
        (from, to): (Option<usize>, Option<usize>),
        ((protocol, port), quantifier): ((Protocol, u16), Quantifier),
    ) -> Hop {
        let [egress, ingress] = self.said((source, node), (protocol, port), quantifier);
        let ports = matches!(
            protocol,
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp | Protocol::UdpLite
        );
        let range = PortRange {
            protocol,
            first: port,
            last: port,
        };
        Hop {
            from: self.end_name(source, from),
            to: self.end_name(node, to),
            packet: Packet {
                protocol,
                source: self.address(source, from),
                source_port: ports.then_some(SOURCE_PORT),
                destination: self.address(node, to),
                port,
                service: range.to_string(),
            },
            egress: self.said_how(egress),
            ingress: self.said_how(ingress),
        }
    }

    pub(crate) fn said_how(&self, said: Said) -> SaidHow {
        let (because, rule) = match said.because {
            Because::Rule(tier, rule) => (Words::Rule, Some(self.rule_name((tier, rule)))),
            Because::Default => (Words::DefaultDeny, None),
            Because::Quarantine => (Words::Quarantine, None),
            Because::Observed => (Words::Observed, None),
            Because::Unprotected => (Words::HostUnprotected, None),
            Because::Cut => (Words::HostUnprotectedBlock, None),
            Because::Outside => (Words::Outside, None),
        };
        SaidHow {
            allows: said.allows,
            rule,
            because,
        }
    }

    pub(crate) fn rule_name(&self, (tier, rule): (u32, u32)) -> RuleName {
        let (tier, rule) = self.rule(tier, rule);
        crate::explain::rule_name(tier, rule)
    }

    /// A placement in which everything happens at once: whoever no rule is asked of is on a host
    /// that enforces nothing, whoever rules let pass is on one that enforces.
    fn placement(
        &self,
        intent: usize,
        needs: &BTreeMap<usize, bool>,
    ) -> (Likelihood, Vec<Placed>, Vec<String>) {
        let one = &self.policy.intents[intent];
        if placements(one) == Placements::Now {
            return (Likelihood::Confirmed, Vec::new(), Vec::new());
        }
        let lacks = crate::universe::weak_hosts(&self.estate);
        let mut placed = Vec::new();
        let mut left: BTreeSet<usize> = BTreeSet::new();
        let mut used: BTreeSet<usize> = BTreeSet::new();
        for (member, weak) in needs {
            let guest = &self.universe.members()[*member];
            let now = guest.host.map(|host| host as usize);
            let hosts = now
                .into_iter()
                .chain(self.hosts_of(*member, Placements::Any));
            let Some(host) = hosts.into_iter().find(|host| lacks[*host] == *weak) else {
                continue;
            };
            left.extend(now.filter(|now| *now != host));
            used.insert(host);
            placed.push(Placed {
                guest: guest.name.clone(),
                host: self.universe.hosts()[host].clone(),
                moved: now != Some(host),
            });
        }
        let names = |hosts: &BTreeSet<usize>| -> Vec<String> {
            hosts
                .iter()
                .map(|host| self.universe.hosts()[*host].clone())
                .collect()
        };
        if one.any_host {
            return (Likelihood::Confirmed, placed, Vec::new());
        }
        // Only guests of failed hosts move, and no failed host takes them.
        let enough = left.len() <= one.failures as usize && left.is_disjoint(&used);
        let likelihood = match enough {
            true => Likelihood::Confirmed,
            false => Likelihood::Possible,
        };
        (likelihood, placed, names(&left))
    }

    fn remedy(&mut self, intent: usize, breach: &Breach) -> Remedy {
        let otherwise = |what: &str| Remedy::Otherwise { what: what.into() };
        let cut = match breach {
            Breach::Chain(_) => match self.never(intent).cloned() {
                Some(never) => self.cut_chains(&never),
                None => self.cut_intruders(intent),
            },
            Breach::Missing(source, node) => return self.missing_remedy(intent, (*source, *node)),
            Breach::Host(HostBreach::Lacks { .. }) => {
                return otherwise("give the host the control, or take it out of `may_run_on`");
            }
            Breach::Host(HostBreach::Unknown { .. }) => {
                return otherwise("name the guest's host or the hosts that it may run on");
            }
            Breach::Host(HostBreach::Together { .. }) => {
                return otherwise("give the two guests different hosts in `may_run_on`");
            }
        };
        match cut {
            Cut::Rules(places) => Remedy::Rules {
                rules: places
                    .into_iter()
                    .map(|place| self.rule_name(place))
                    .collect(),
            },
            Cut::NotByRules => otherwise(
                "no rule allows it: end the observation, give the hosts the firewall, or choose \
                 `block` for host-unprotected",
            ),
            Cut::TooLarge => otherwise("too many sessions are allowed to look for a smallest set"),
        }
    }

    fn cut_intruders(&mut self, intent: usize) -> Cut {
        let Claim::Only { from, to, .. } = &self.policy.intents[intent].claim.clone() else {
            return Cut::NotByRules;
        };
        let (Ok(known), Ok(to)) = (self.universe.select(from), self.universe.select(to)) else {
            return Cut::NotByRules;
        };
        let mut others = self.universe.all().clone();
        others.without(self.universe.bits(known));
        // Whose addresses can be forged are no better than those who forge them.
        if !self.estate.fabric_trusted && others.meets(self.universe.outside()) {
            others.or(self.universe.outside());
        }
        let mut to = self.universe.bits(to).clone();
        to.and(self.universe.all());
        let service = self.claimed(intent);
        let quantifier = self.quantifier(intent, Quantity::Some);
        self.cut_sessions((&others, &to), (service, quantifier))
    }

    fn missing_remedy(&mut self, intent: usize, (source, node): (usize, usize)) -> Remedy {
        let quantifier = self.quantifier(intent, Quantity::Every);
        let service = self.claimed(intent);
        let mut rules = Vec::new();
        for port in self.relation.ports(node, service) {
            for said in self.said((source, node), port, quantifier) {
                if let (false, Because::Rule(tier, rule)) = (said.allows, said.because) {
                    rules.push((tier, rule));
                }
            }
        }
        rules.sort_unstable();
        rules.dedup();
        match rules.is_empty() {
            true => Remedy::Otherwise {
                what: "no rule allows it: add one, or give the guests hosts with the firewall"
                    .into(),
            },
            false => Remedy::Rules {
                rules: rules
                    .into_iter()
                    .map(|place| self.rule_name(place))
                    .collect(),
            },
        }
    }
}

/// Which guests of a chain are on a host that enforces nothing, and which on one that enforces.
fn needs(hops: &[Hop], members: &[Option<usize>]) -> BTreeMap<usize, bool> {
    let mut needs = BTreeMap::new();
    for (at, hop) in hops.iter().enumerate() {
        for (member, said) in [(members[at], &hop.egress), (members[at + 1], &hop.ingress)] {
            let weak = matches!(
                said.because,
                Words::HostUnprotected | Words::HostUnprotectedBlock
            );
            needs.extend(member.map(|member| (member, weak)));
        }
    }
    needs
}
