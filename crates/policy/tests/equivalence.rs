//! The tables mean what the reference evaluator says: small random policies, every pair of ends,
//! every port at which anything can change. A failure prints the seed and the policy.
//! `LICTOR_POLICIES` is the number of policies, `LICTOR_SEED` the first of them.

mod common;

use common::{ADDRESSES, HEAD, Random, guests, number, parsed, policy_text, today};
use lictor_policy::evaluate::{Question, Ruling, evaluate};
use lictor_policy::syntax::{Document, format, read};
use lictor_policy::{CompileInput, Compiled, Delta, End, Labels, Policy, RowsDelta, compile};
use lictor_types::{AtomId, Decision, Direction, IdentityId, Protocol, RuleId, Verdict, Would};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

const POLICIES: u64 = 400;

/// Both sides of every place where a service begins or ends.
fn ports() -> Vec<(Protocol, u16)> {
    let tcp = [
        0, 19, 20, 21, 22, 23, 24, 25, 30, 31, 443, 444, 65_534, 65_535,
    ];
    let udp = [0, 52, 53, 54, 65_535];
    let mut ports: Vec<(Protocol, u16)> = tcp.map(|port| (Protocol::Tcp, port)).to_vec();
    ports.extend(udp.map(|port| (Protocol::Udp, port)));
    ports.extend([0x07ff, 0x0800, 0x08ff, 0x0900, 0xffff].map(|port| (Protocol::Icmp, port)));
    ports.extend([0x7fff, 0x8000, 0x8100].map(|port| (Protocol::Icmpv6, port)));
    ports.extend([0x0303, 0x0304, 0x0305].map(|port| (Protocol::Icmp, port)));
    ports.extend([2904, 2905, 2906].map(|port| (Protocol::Sctp, port)));
    ports.extend([0, 5004].map(|port| (Protocol::UdpLite, port)));
    ports.extend([0x88cb, 0x88cc].map(|port| (Protocol::Ether, port)));
    ports.extend([0, 46, 47, 48, 255].map(|port| (Protocol::Other, port)));
    ports
}

/// The tables as a host would use them.
struct Tables<'a> {
    compiled: &'a Compiled,
    rows: BTreeMap<(IdentityId, IdentityId, Direction, AtomId), Decision>,
}

impl<'a> Tables<'a> {
    fn of(compiled: &'a Compiled) -> Self {
        let rows = all_rows(compiled).into_iter();
        let rows = rows.map(|row| (row.key(), row)).collect();
        Self { compiled, rows }
    }

    fn identity(&self, end: &End) -> IdentityId {
        match end {
            End::Guest(labels) => self.compiled.identity_of(labels).expect("compiled in"),
            End::Address(address) => self
                .compiled
                .prefixes
                .iter()
                .filter(|row| row.prefix.contains(address))
                .max_by_key(|row| row.prefix.prefix_len())
                .map_or(IdentityId::WORLD, |row| row.identity),
        }
    }

    fn ruling(
        &self,
        ends: (IdentityId, IdentityId),
        direction: Direction,
        port: (Protocol, u16),
    ) -> Ruling {
        let atom =
            self.compiled.atoms.iter().find(|range| {
                range.protocol == port.0 && (range.first..=range.last).contains(&port.1)
            });
        let peer = match port.0 {
            Protocol::Ether => IdentityId::WORLD,
            _ => ends.1,
        };
        // A host leaves out what does not hold today.
        let ended = self.compiled.ended_by(today());
        let row = atom.and_then(|range| {
            let mut keys = Decision::keys(peer, range.atom);
            keys.find_map(|(peer, atom)| self.rows.get(&(ends.0, peer, direction, atom)))
        });
        let row = row.filter(|row| !ended.contains(&row.rule));
        let baseline = self.compiled.baseline_log != lictor_policy::Log::Off;
        let ruling = Ruling {
            verdict: row.map_or(Verdict::Deny, |row| row.verdict),
            rule: row
                .map(|row| row.rule)
                .filter(|rule| *rule != RuleId::DEFAULT),
            log: row.is_some_and(|row| row.log),
            log_limit: row.map(|row| row.log_limit).filter(|limit| *limit != 0),
            limit: row.map(|row| row.limit).filter(|limit| *limit != 0),
            would: row.and_then(|row| row.would),
        };
        let ruling = Ruling {
            log: ruling.log || (ruling.rule.is_none() && baseline),
            ..ruling
        };
        let observed = self.compiled.observed_on(ends.0, today()).is_some();
        if ruling.verdict == Verdict::Allow || !observed {
            return ruling;
        }
        let rule = ruling.rule.unwrap_or(RuleId::DEFAULT);
        let verdict = ruling.verdict;
        Ruling {
            verdict: Verdict::Allow,
            rule: None,
            would: Some(Would { verdict, rule }),
            ..ruling
        }
    }
}

fn all_rows(compiled: &Compiled) -> Vec<Decision> {
    let tables = lictor_policy::Tables::of(compiled).expect("as compiled");
    let ids = compiled.identities.iter().map(|one| one.id);
    ids.flat_map(|id| tables.decisions(id)).collect()
}

/// Compares all and returns how many questions were allowed, to prove that the test tests.
fn compare(policy: &Policy, ends: &[End], context: &str) -> usize {
    let label_sets = ends.iter().filter_map(|end| match end {
        End::Guest(labels) => Some(labels.clone()),
        End::Address(_) => None,
    });
    let input = CompileInput {
        label_sets: label_sets.collect(),
        date: today(),
    };
    let compiled = compile(policy, &input).unwrap_or_else(|error| panic!("{context}\n{error}"));
    let tables = Tables::of(&compiled);
    let identities: Vec<IdentityId> = ends.iter().map(|end| tables.identity(end)).collect();
    let mut allowed = 0;
    // Ends that the reference can't tell apart either would only repeat the question.
    for (source, from) in ends.iter().zip(&identities) {
        for (destination, to) in ends.iter().zip(&identities) {
            for port in ports() {
                let (protocol, number) = port;
                let question = Question {
                    source: source.clone(),
                    destination: destination.clone(),
                    protocol,
                    port: number,
                    date: today(),
                };
                let answer = evaluate(policy, &question);
                if let Some(expected) = answer.egress {
                    let found = tables.ruling((*from, *to), Direction::Egress, port);
                    assert_eq!(found, expected, "{context}\n{question:?}");
                }
                if let Some(expected) = answer.ingress {
                    let found = tables.ruling((*to, *from), Direction::Ingress, port);
                    assert_eq!(found, expected, "{context}\n{question:?}");
                }
                allowed += usize::from(answer.verdict == Verdict::Allow);
            }
        }
    }
    allowed
}

#[test]
fn tables_and_reference_give_the_same_verdict_rule_and_log() {
    let guests = guests();
    let mut allowed = 0;
    let first = number("LICTOR_SEED", 0);
    for seed in first..first + number("LICTOR_POLICIES", POLICIES) {
        let mut random = Random(seed);
        let text = policy_text(&mut random);
        let policy = parsed(&text, &format!("seed {seed}\n{text}"));
        // A few guests and addresses for each policy, all of them over the run.
        let mut ends: BTreeSet<End> = BTreeSet::new();
        for _ in 0..5 {
            ends.insert(End::Guest(
                guests[random.below(guests.len() as u64) as usize].clone(),
            ));
            let address: IpAddr = random.pick(&ADDRESSES).parse().expect("an address");
            ends.insert(End::Address(address));
        }
        let ends: Vec<End> = ends.into_iter().collect();
        allowed += compare(&policy, &ends, &format!("seed {seed}\n{text}"));
    }
    assert!(
        allowed > 10_000,
        "only {allowed} questions were allowed: the policies are too tight"
    );
}

#[test]
fn one_policy_over_every_guest_and_every_address() {
    let mut random = Random(2_026);
    let text = policy_text(&mut random);
    let policy = parsed(&text, &text);
    let addresses = ADDRESSES
        .iter()
        .map(|text| End::Address(text.parse().expect("an address")));
    let ends: Vec<End> = guests()
        .into_iter()
        .map(End::Guest)
        .chain(addresses)
        .collect();
    compare(&policy, &ends, &text);
}

#[test]
fn the_order_of_the_label_sets_means_nothing() {
    let mut label_sets = guests();
    for seed in 0..20 {
        let mut random = Random(seed);
        let text = policy_text(&mut random);
        let policy = parsed(&text, &text);
        let compiled = |label_sets: &[Labels]| {
            let input = CompileInput {
                label_sets: label_sets.to_vec(),
                date: today(),
            };
            compile(&policy, &input).expect("small").canonical_bytes()
        };
        let expected = compiled(&label_sets);
        for _ in 0..5 {
            for index in (1..label_sets.len()).rev() {
                label_sets.swap(index, random.below(index as u64 + 1) as usize);
            }
            let mut repeated = label_sets.clone();
            repeated.push(label_sets[0].clone());
            assert!(compiled(&repeated) == expected, "seed {seed}\n{text}");
        }
        let read: Compiled = serde_json::from_slice(&expected).expect("what was written");
        assert!(read.canonical_bytes() == expected, "seed {seed}");
    }
}

#[test]
fn a_guests_address_says_nothing_and_an_unknown_guest_has_no_identity() {
    let text =
        format!("{HEAD}tier t allow-only {{ allow a from set:wide to zone:dmz service any }}\n");
    let policy = parsed(&text, &text);
    let dmz = Labels::from([("zone".to_owned(), "dmz".to_owned())]);
    let input = CompileInput {
        label_sets: vec![dmz.clone()],
        date: today(),
    };
    let compiled = compile(&policy, &input).expect("small");
    let local = compiled.identity_of(&dmz).expect("compiled in");
    let rows = all_rows(&compiled);
    let peers: Vec<IdentityId> = rows.iter().map(|row| row.peer).collect();
    let own = [local, IdentityId::ANY];
    assert!(
        !peers.is_empty() && !peers.iter().any(|peer| own.contains(peer)),
        "the guest is in no set"
    );
    let other = Labels::from([("zone".to_owned(), "corp".to_owned())]);
    assert_eq!(compiled.identity_of(&other), None);
    assert_eq!(compiled.rule(RuleId::DEFAULT), None);
}

#[test]
fn the_layout_of_a_text_means_nothing() {
    let canonical = |text: &str| {
        let policy = parsed(text, text);
        let label_sets = guests();
        let date = today();
        let input = CompileInput { label_sets, date };
        let mut compiled = compile(&policy, &input).expect("small");
        compiled.source = lictor_types::Digest([0; 32]);
        for rule in &mut compiled.rules {
            (rule.line, rule.text) = (0, String::new());
        }
        compiled.canonical_bytes()
    };
    for seed in 0..100 {
        let text = policy_text(&mut Random(seed));
        let once = format(&text).expect("sound");
        assert_eq!(format(&once).expect("sound"), once, "seed {seed}");
        assert!(canonical(&once) == canonical(&text), "seed {seed}\n{once}");
        let document = read(&text).expect("sound");
        let again = Document::from_json(document.to_json().as_bytes()).expect("as written");
        assert_eq!(again, document, "seed {seed}");
    }
}

#[test]
fn a_delta_makes_the_newer_tables_of_the_older_ones() {
    let tables = |seed: u64| {
        let text = policy_text(&mut Random(seed));
        let label_sets = guests();
        let date = today();
        compile(&parsed(&text, &text), &CompileInput { label_sets, date }).expect("small")
    };
    for seed in 0..40 {
        let (old, new) = (tables(seed), tables(seed + 1));
        let ids = |compiled: &Compiled| compiled.identities.iter().map(|one| one.id).collect();
        let local: BTreeSet<IdentityId> = ids(&old);
        let local = &local | &ids(&new);
        let tables = [&old, &new].map(|one| lictor_policy::Tables::of(one).expect("as compiled"));
        let rows = RowsDelta::of(&tables[0], &tables[1], &local);
        let mut applied = rows.apply(&all_rows(&old));
        applied.sort_by_key(Decision::key);
        assert_eq!(applied, all_rows(&new), "seed {seed}");
        assert_eq!(Delta::of(&old, &old), Delta::default(), "seed {seed}");
    }
}

#[test]
fn one_rule_more_changes_no_number_of_classes_that_it_does_not_name() {
    // A computed scope follows the rules, and whoever it selects is another class then.
    let head: String = HEAD
        .split_inclusive('\n')
        .filter(|line| !line.contains("computed"))
        .collect();
    let text = |rules: &str| format!("{head}tier t allow-only {{\n{rules}}}\n");
    let tables = |rules: &str| {
        let (text, label_sets, date) = (text(rules), guests(), today());
        compile(&parsed(&text, &text), &CompileInput { label_sets, date }).expect("small")
    };
    let one = "allow a from zone:cde to zone:dmz service tcp/22\n";
    let more = "allow b from app:pay to zone:dmz service tcp/22\n";
    let (old, new) = (tables(one), tables(&format!("{one}{more}")));
    let delta = Delta::of(&old, &new);
    assert_eq!(delta.rules_added, ["t/b"]);
    assert!(delta.rules_removed.is_empty() && delta.rules_changed.is_empty());
    for labels in guests()
        .iter()
        .filter(|labels| labels.get("app").is_none_or(|app| app != "pay"))
    {
        assert_eq!(
            old.identity_of(labels),
            new.identity_of(labels),
            "{labels:?}"
        );
    }
}
