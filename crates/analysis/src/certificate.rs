//! What `lictor-checker` needs to validate results again, in a plain form: ends by number, which of
//! them each selector matches, the rules in force and the claims over those; and of each intent who
//! may stand before its ends, or the sessions of its counterexample.

use crate::hosts::HostClaim;
use crate::overlay::Placements;
use crate::prove::{Breach, Prover, Verdict, placements};
use crate::report::{Counterexample, Finding, Hop, Outcome, Words};
use crate::universe::{Kind, SelectorId};
use crate::{AnalysisError, Bits};
use lictor_policy::{Action, At, Cause, Choice, Claim, End, Service, TierKind};
use lictor_types::Protocol;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything that the checker takes.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    names: Vec<String>,
    sets: Vec<Vec<u64>>,
    single: Vec<u64>,
    outside: Vec<u64>,
    quarantined: Vec<u64>,
    observed: Vec<u64>,
    opens: Vec<u64>,
    weak: [Vec<u64>; 3],
    fabric_trusted: bool,
    rules: Vec<PlainRule>,
    intents: Vec<PlainIntent>,
    certificates: Vec<Certificate>,
}

#[derive(Debug, Clone, Serialize)]
struct PlainRule {
    name: String,
    tier: u32,
    ordered: bool,
    action: Action,
    at: At,
    service: Service,
    from: usize,
    to: usize,
    nobody: (bool, bool),
    part_of_day: bool,
}

#[derive(Debug, Clone, Serialize)]
struct PlainIntent {
    name: String,
    statement: String,
    any_host: bool,
    claim: PlainClaim,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
enum PlainClaim {
    NeverPath(PlainPath),
    Only(PlainPath),
    AlwaysPath(PlainPath),
    Hosts(Vec<HostClaim>, Option<usize>),
}

#[derive(Debug, Clone, Serialize)]
struct PlainPath {
    from: usize,
    to: usize,
    service: Service,
    hops: Option<u32>,
    except: Vec<(bool, usize, Option<Service>)>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Certificate {
    intent: String,
    held: bool,
    closures: Vec<Vec<Vec<u64>>>,
    hops: Vec<PlainHop>,
    forged_by: Option<usize>,
    placed: (Vec<usize>, Vec<usize>),
}

#[derive(Debug, Clone, Serialize)]
struct PlainHop {
    from: usize,
    to: usize,
    protocol: Protocol,
    port: u16,
}

/// The sets that were written, each once.
#[derive(Default)]
struct Sets {
    words: usize,
    known: BTreeMap<SelectorId, usize>,
    list: Vec<Vec<u64>>,
}

impl Sets {
    fn of(&mut self, prover: &Prover, id: SelectorId) -> usize {
        let next = self.list.len();
        let place = *self.known.entry(id).or_insert(next);
        if place == next {
            let bits = prover.universe.bits(id);
            self.list.push(self.plain(bits));
        }
        place
    }

    /// Without the room for nodes that may come.
    fn plain(&self, bits: &Bits) -> Vec<u64> {
        bits.words()[..self.words].to_vec()
    }
}

impl Prover {
    /// The certificates of all intents, in the form that the checker takes.
    ///
    /// # Errors
    /// [`AnalysisError`] if a selector was never asked for, which those of intents and rules were.
    pub fn certify(&mut self) -> Result<Document, AnalysisError> {
        let nodes = self.universe.nodes().len();
        let mut sets = Sets {
            words: nodes.div_ceil(64),
            ..Sets::default()
        };
        let rules = self.plain_rules(&mut sets);
        let mut intents = Vec::new();
        let mut certificates = Vec::new();
        for place in 0..self.policy.intents.len() {
            intents.push(self.plain_intent(place, &mut sets)?);
            certificates.push(self.certificate(place, &sets));
        }
        let universe = &self.universe;
        let (policy, date) = (self.policy.clone(), self.date);
        let choices: Vec<_> = policy
            .choices
            .iter()
            .filter(|one| one.cause == Cause::HostUnprotected)
            .filter(|one| one.expires.is_none_or(|expires| date <= expires))
            .collect();
        let opens = universe.guests_where(|labels| {
            let end = End::Guest(labels.clone());
            let mut own = choices.iter();
            let mut own = own
                .by_ref()
                .filter(|one| one.guests.matches(&end, &policy.sets));
            let first = own.next().map(|one| one.choice);
            first == Some(Choice::AllowWithAlarm)
                && own.all(|one| one.choice == Choice::AllowWithAlarm)
                && !policy.quarantines(labels)
        });
        let weak = |which: fn(&crate::Weak) -> bool| {
            let mut bits = Bits::empty(universe.words());
            for (place, member) in universe.members().iter().enumerate() {
                if which(&member.weak) {
                    bits.insert(universe.node_of(place));
                }
            }
            sets.plain(&bits)
        };
        let mut single = Bits::empty(universe.words());
        (0..nodes)
            .filter(|node| !universe.is_several(*node))
            .for_each(|node| single.insert(node));
        Ok(Document {
            names: (0..nodes).map(|node| self.node_name(node)).collect(),
            single: sets.plain(&single),
            outside: sets.plain(universe.outside()),
            quarantined: sets.plain(&universe.guests_where(|one| policy.quarantines(one))),
            observed: sets.plain(&universe.guests_where(|one| policy.observes(one, date))),
            opens: sets.plain(&opens),
            weak: [
                weak(|one| one.now),
                weak(|one| one.some),
                weak(|one| one.every),
            ],
            fabric_trusted: self.estate.fabric_trusted,
            sets: std::mem::take(&mut sets.list),
            rules,
            intents,
            certificates,
        })
    }

    fn node_name(&self, node: usize) -> String {
        match &self.universe.nodes()[node] {
            Kind::Outside(address) => address.to_string(),
            Kind::Guests(members) => members.first().map_or_else(String::new, |member| {
                self.universe.members()[*member as usize].name.clone()
            }),
        }
    }

    fn plain_rules(&self, sets: &mut Sets) -> Vec<PlainRule> {
        let rules = self.relation.in_force().map(|active| {
            let (_, rule) = self.rule(active.place.0, active.place.1);
            PlainRule {
                name: rule.name.clone(),
                tier: active.place.0,
                ordered: active.kind == TierKind::Ordered,
                action: active.action,
                at: active.at,
                service: rule.service.clone(),
                from: sets.of(self, active.from),
                to: sets.of(self, active.to),
                nobody: active.nobody,
                part_of_day: active.part_of_day,
            }
        });
        rules.collect()
    }

    fn plain_intent(
        &mut self,
        place: usize,
        sets: &mut Sets,
    ) -> Result<PlainIntent, AnalysisError> {
        let intent = self.policy.intents[place].clone();
        let any = Service::any();
        let mut path = |from, to, service: Option<&Service>| -> Result<PlainPath, AnalysisError> {
            let (from, to) = (self.universe.select(from)?, self.universe.select(to)?);
            Ok(PlainPath {
                from: sets.of(self, from),
                to: sets.of(self, to),
                service: service.unwrap_or(&any).clone(),
                hops: None,
                except: Vec::new(),
            })
        };
        let claim = match &intent.claim {
            Claim::Only { from, to, service } => PlainClaim::Only(PlainPath {
                hops: Some(1),
                ..path(from, to, Some(service))?
            }),
            Claim::AlwaysPath { from, to, service } => {
                PlainClaim::AlwaysPath(path(from, to, Some(service))?)
            }
            Claim::NeverPath {
                from,
                to,
                service,
                hops,
                except,
            } => {
                let mut plain = path(from, to, service.as_ref())?;
                plain.hops = *hops;
                for one in except {
                    let ends = self.universe.select(&one.ends)?;
                    let ends = sets.of(self, ends);
                    plain.except.push((one.via, ends, one.service.clone()));
                }
                PlainClaim::NeverPath(plain)
            }
            Claim::Controls { .. } | Claim::Apart { .. } => {
                let moves = (!intent.any_host).then_some(intent.failures as usize);
                PlainClaim::Hosts(self.host_claims(place), moves)
            }
        };
        Ok(PlainIntent {
            name: intent.name.clone(),
            statement: intent.statement(),
            any_host: placements(&intent) == Placements::Any,
            claim,
        })
    }

    fn certificate(&mut self, intent: usize, sets: &Sets) -> Certificate {
        let verdict = self.verdict(intent);
        let finding = self.told(intent, &verdict);
        let mut one = Certificate {
            intent: finding.intent.clone(),
            ..Certificate::default()
        };
        match verdict {
            Verdict::Held => {
                one.held = true;
                one.closures = self.closures(intent, sets);
            }
            Verdict::Failed(Breach::Chain(chain)) => {
                one.forged_by = chain.forged_by;
                one.shown(&chain.nodes, &finding);
            }
            Verdict::Failed(Breach::Missing(from, to)) => one.shown(&[from, to], &finding),
            Verdict::Failed(Breach::Host(_)) => {}
        }
        one
    }

    /// Of what never is and holds: its ends, who reaches them, who reaches those, and so on.
    fn closures(&mut self, intent: usize, sets: &Sets) -> Vec<Vec<Vec<u64>>> {
        let Some(never) = self.never(intent).cloned() else {
            let only = match &self.policy.intents[intent].claim {
                Claim::Only { to, .. } => self.universe.known(to),
                _ => None,
            };
            return only
                .map(|to| vec![vec![sets.plain(to)]])
                .unwrap_or_default();
        };
        let from = self.sources_of(&never);
        let mut closures = Vec::new();
        for targets in self.groups(&never, &from) {
            let mut own = from.clone();
            if let Some(single) = self.single(&targets) {
                own.remove(single);
            }
            let search = self.search(&never, (&own, &targets));
            closures.push(
                search
                    .levels
                    .iter()
                    .map(|level| sets.plain(level))
                    .collect(),
            );
        }
        closures
    }
}

impl Certificate {
    fn shown(&mut self, nodes: &[usize], finding: &Finding) {
        let Outcome::Failed { counterexample, .. } = &finding.outcome else {
            return;
        };
        let hops: &[Hop] = match &**counterexample {
            Counterexample::Path { hops, .. } => hops,
            Counterexample::Denied { hop, .. } => std::slice::from_ref(hop),
            Counterexample::Lacks { .. }
            | Counterexample::Nowhere { .. }
            | Counterexample::Together { .. } => return,
        };
        for (at, hop) in hops.iter().enumerate() {
            for (node, said) in [(nodes[at], &hop.egress), (nodes[at + 1], &hop.ingress)] {
                match said.because {
                    Words::Outside => {}
                    Words::HostUnprotected | Words::HostUnprotectedBlock => {
                        self.placed.0.push(node);
                    }
                    _ => self.placed.1.push(node),
                }
            }
            self.hops.push(PlainHop {
                from: nodes[at],
                to: nodes[at + 1],
                protocol: hop.packet.protocol,
                port: hop.packet.port,
            });
        }
    }
}
