//! An oracle of another kind for chains of sessions: who can reach whom as a binary decision
//! diagram over ends, ports and the hosts of all guests at once, closed by images until nothing
//! is added. It shares with the prover neither rows of bits nor the search backwards, and tries no
//! placement by itself. Verdict and length of the shortest chain are the same.
//! `LICTOR_POLICIES` is the number of policies, `LICTOR_SEED` the first of them.

mod common;

use common::{PORTS, Random, World, estate, parsed, policy_text, seeds, today};
use lictor_analysis::{Breach, Prover, Verdict};
use lictor_policy::{Claim, Exception, Intent, Selector, Service};
use oxidd::bdd::{BDDFunction as Diagram, BDDManagerRef};
use oxidd::{BooleanFunction as _, BooleanFunctionQuant as _, Manager as _, ManagerRef as _};
use std::ops::Range;
use std::sync::Arc;

const POLICIES: u64 = 200;
/// Room for nodes and for results of operations.
const NODES: usize = 1 << 20;
/// Bits of an end, of a port, and of the host of one guest.
const END: u32 = 4;
const PORT: u32 = 5;
const HOST: u32 = 3;

/// Whose place in a chain a block of variables is.
const BEGINS: Range<u32> = 0..END;
const HERE: Range<u32> = END..2 * END;
const NEXT: Range<u32> = 2 * END..3 * END;
const OVER: Range<u32> = 3 * END..3 * END + PORT;
const HOSTS: u32 = 3 * END + PORT;

struct Space<'a> {
    world: &'a World<'a>,
    manager: BDDManagerRef,
    vars: Vec<Diagram>,
    /// Guests may be on any of their hosts.
    anywhere: bool,
}

fn and(one: &Diagram, other: &Diagram) -> Diagram {
    one.and(other).expect("room")
}

fn or(one: &Diagram, other: &Diagram) -> Diagram {
    one.or(other).expect("room")
}

fn not(one: &Diagram) -> Diagram {
    one.not().expect("room")
}

impl<'a> Space<'a> {
    fn new(world: &'a World<'a>, anywhere: bool) -> Self {
        let count = HOSTS + HOST * world.actors.len() as u32;
        assert!(world.actors.len() <= 1 << END && PORTS.len() <= 1 << PORT);
        let manager = oxidd::bdd::new_manager(NODES, NODES, 1);
        let vars = manager.with_manager_exclusive(|manager| {
            let range = manager.add_vars(count);
            let vars = range.map(|var| Diagram::var(manager, var).expect("room"));
            vars.collect()
        });
        Self {
            world,
            manager,
            vars,
            anywhere,
        }
    }

    fn constant(&self, value: bool) -> Diagram {
        self.manager.with_manager_shared(|manager| match value {
            true => Diagram::t(manager),
            false => Diagram::f(manager),
        })
    }

    /// That a block of variables is a number.
    fn is(&self, block: Range<u32>, number: usize) -> Diagram {
        block
            .zip(0..)
            .fold(self.constant(true), |found, (var, bit)| {
                let var = &self.vars[var as usize];
                match number >> bit & 1 {
                    1 => and(&found, var),
                    _ => and(&found, &not(var)),
                }
            })
    }

    fn any_of(&self, block: &Range<u32>, numbers: impl Iterator<Item = usize>) -> Diagram {
        numbers.fold(self.constant(false), |found, one| {
            or(&found, &self.is(block.clone(), one))
        })
    }

    fn host(&self, actor: usize) -> Range<u32> {
        let first = HOSTS + HOST * actor as u32;
        first..first + HOST
    }

    /// The hosts that actors are on, each on one that it may be on.
    fn placed(&self) -> Diagram {
        let actors = 0..self.world.actors.len();
        actors.fold(self.constant(true), |found, actor| {
            let places = self.world.places(actor, self.anywhere);
            let places = places
                .into_iter()
                .map(|host| host.map_or(0, |host| host + 1));
            and(&found, &self.any_of(&self.host(actor), places))
        })
    }

    /// That an actor is on a host without the firewall.
    fn unprotected(&self, actor: usize) -> Diagram {
        let hosts = &self.world.estate.hosts;
        let weak = hosts.iter().zip(1..).filter(|(host, _)| {
            let mut controls = host.controls.iter();
            controls.all(|one| one != "firewall")
        });
        self.any_of(&self.host(actor), weak.map(|(_, place)| place))
    }

    /// What an end does with a packet, wherever it is.
    fn says(&self, actor: usize, said: bool) -> Diagram {
        let weak = self.unprotected(actor);
        let open = self.constant(self.world.actors[actor].open);
        let said = self.constant(said);
        or(&and(&weak, &open), &and(&not(&weak), &said))
    }

    /// Every session that may begin, from one end to the next over a port.
    fn sessions(&self) -> Diagram {
        let mut all = self.constant(false);
        let actors = || 0..self.world.actors.len();
        for (from, to) in actors().flat_map(|from| actors().map(move |to| (from, to))) {
            let guests = self.world.is_guest(from) || self.world.is_guest(to);
            if from == to || !guests {
                continue;
            }
            let ends = and(&self.is(HERE, from), &self.is(NEXT, to));
            for (egress, ingress) in [(false, false), (false, true), (true, false), (true, true)] {
                let ports = (0..PORTS.len())
                    .filter(|port| self.world.said(from, to, *port) == (egress, ingress));
                let over = self.any_of(&OVER, ports);
                let passes = and(&self.says(from, egress), &self.says(to, ingress));
                all = or(&all, &and(&and(&ends, &over), &passes));
            }
        }
        all
    }

    /// Sessions of a service to ends that no exception is about.
    fn counts(&self, service: &Service, except: &[Exception], via: bool) -> Diagram {
        let over = |service: &Service| self.any_of(&OVER, World::ports(service).into_iter());
        let own = except.iter().filter(|one| one.via == via);
        own.fold(over(service), |found, one| {
            let ends = self.any_of(&NEXT, self.world.matching(&one.ends).into_iter());
            let over = one.service.as_ref().map_or(self.constant(true), over);
            and(&found, &not(&and(&ends, &over)))
        })
    }

    fn without(&self, diagram: &Diagram, block: Range<u32>) -> Diagram {
        let cube = block.fold(self.constant(true), |found, var| {
            and(&found, &self.vars[var as usize])
        });
        diagram.exists(&cube).expect("room")
    }

    fn same(&self, one: Range<u32>, other: Range<u32>) -> Diagram {
        one.zip(other)
            .fold(self.constant(true), |found, (one, other)| {
                let [one, other] = [one, other].map(|var| &self.vars[var as usize]);
                and(&found, &one.equiv(other).expect("room"))
            })
    }

    /// Sessions of the shortest chain that a claim forbids. `None` if there is no chain.
    fn shortest(&self, intent: &Intent) -> Option<usize> {
        let Claim::NeverPath {
            from,
            to,
            service,
            hops,
            except,
        } = &intent.claim
        else {
            panic!("a chain");
        };
        let service = service.clone().unwrap_or_else(Service::any);
        let sessions = and(&self.sessions(), &self.placed());
        let step = |via: bool| {
            let counted = and(&sessions, &self.counts(&service, except, via));
            self.without(&counted, OVER)
        };
        let targets = self.any_of(&NEXT, self.world.matching(to).into_iter());
        let last = and(&step(false), &targets);
        let last = and(&last, &not(&self.same(BEGINS, NEXT)));
        let on = step(true);
        let sources = self.any_of(&BEGINS, self.sources(from).into_iter());
        let mut reached = and(&sources, &self.same(BEGINS, HERE));
        let mut length = 1;
        loop {
            if and(&reached, &last).satisfiable() {
                return Some(length);
            }
            let image = self.without(&and(&reached, &on), HERE);
            let image = self.without(&and(&image, &self.same(HERE, NEXT)), NEXT);
            let more = or(&reached, &image);
            if more == reached || hops.is_some_and(|hops| length >= hops as usize) {
                return None;
            }
            reached = more;
            length += 1;
        }
    }

    /// Who may begin: whoever is outside forges an outside address, unless the fabric is trusted.
    fn sources(&self, from: &Selector) -> Vec<usize> {
        let mut found = self.world.matching(from);
        let outside = |actor: &usize| !self.world.is_guest(*actor);
        if !self.world.estate.fabric_trusted && found.iter().any(outside) {
            found.extend((0..self.world.actors.len()).filter(outside));
        }
        found
    }
}

fn check(seed: u64, counts: &mut [u64; 2]) {
    let mut random = Random(seed);
    let text = policy_text(&mut random);
    let estate = Arc::new(estate(&mut random));
    let policy = Arc::new(parsed(&text, &format!("seed {seed}\n{text}")));
    let mut prover = Prover::new(policy.clone(), estate.clone(), today()).expect("small");
    let verdicts = prover.verdicts();
    let world = World::of(&policy, &estate);
    for (intent, verdict) in policy.intents.iter().zip(verdicts) {
        if !matches!(intent.claim, Claim::NeverPath { .. }) {
            continue;
        }
        let anywhere = intent.any_host || intent.failures > 0;
        let expected = Space::new(&world, anywhere).shortest(intent);
        let found = match &verdict {
            Verdict::Held => None,
            Verdict::Failed(Breach::Chain(chain)) => Some(chain.nodes.len() - 1),
            Verdict::Failed(_) => panic!("no chain is shown"),
        };
        counts[usize::from(expected.is_some_and(|length| length > 1))] += 1;
        assert_eq!(
            found, expected,
            "seed {seed}\n{text}\n{estate:#?}\n{intent}\n{verdict:?}"
        );
    }
}

#[test]
fn chains_are_those_of_the_diagram_of_all_placements() {
    let mut counts = [0; 2];
    for seed in seeds(POLICIES) {
        check(seed, &mut counts);
    }
    assert!(counts[1] > 0, "no chain has a stop between");
}
