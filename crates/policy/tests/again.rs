//! A compiler that remembers gives what a full compilation gives, byte for byte, after any number
//! of edits of rules, labels and guests. `LICTOR_POLICIES` is the number of histories,
//! `LICTOR_SEED` the first of them.

mod common;

use common::{Random, guests, number, policy_text, today};
use lictor_policy::{CompileInput, Compiler, Labels, Policy, compile, parse};
use std::sync::Arc;

const HISTORIES: u64 = 60;
const EDITS: u64 = 25;

/// The lines that are rules, by their places.
fn rules(lines: &[String]) -> Vec<usize> {
    let actions = ["allow ", "deny ", "reject ", "pass "];
    let places = lines.iter().enumerate();
    let found = places.filter(|(_, line)| actions.iter().any(|action| line.starts_with(action)));
    found.map(|(place, _)| place).collect()
}

/// A rule goes, comes, gets the ends of another one, or another place; or a comment moves all.
fn edit(lines: &mut Vec<String>, random: &mut Random, step: u64) {
    let places = rules(lines);
    if places.is_empty() {
        return;
    }
    let mut any = || places[random.below(places.len() as u64) as usize];
    let (one, other) = (any(), any());
    let mut words: Vec<&str> = lines[one].split_whitespace().collect();
    let name = format!("n{step}");
    match random.below(6) {
        0 => drop(lines.remove(one)),
        1 => {
            words[1] = &name;
            let line = words.join(" ");
            lines.insert(other, line);
        }
        2 => {
            let ends = |line: &str| line.split_once(" from ").map(|(_, rest)| rest.to_owned());
            if let Some(rest) = ends(&lines[other]) {
                lines[one] = format!("{} {} from {rest}", words[0], words[1]);
            }
        }
        3 => lines.swap(one, other),
        4 => lines.insert(one, "# nothing".into()),
        _ => {
            let port = format!(" service tcp/{} ", 20 + random.below(9));
            let (head, tail) = lines[one].split_once(" service ").expect("a rule");
            let tail = tail.split_once(' ').map_or("", |(_, tail)| tail);
            lines[one] = format!("{head}{port}{}", tail.trim_start_matches("udp/53"));
        }
    }
}

/// Guests come, go, and change their labels.
fn move_guest(sets: &mut Vec<Labels>, random: &mut Random, all: &[Labels]) {
    let fresh = all[random.below(all.len() as u64) as usize].clone();
    let place = random.below(sets.len() as u64 + 1) as usize;
    match (random.below(3), place < sets.len()) {
        (0, _) => sets.insert(place, fresh),
        (1, true) => sets[place] = fresh,
        (_, true) => drop(sets.remove(place)),
        (_, false) => {}
    }
}

#[test]
fn what_is_compiled_after_edits_is_what_is_compiled_anew() {
    let all = guests();
    let (mut short, mut long) = (0, 0);
    let first = number("LICTOR_SEED", 0);
    for seed in first..first + number("LICTOR_POLICIES", HISTORIES) {
        let mut random = Random(seed);
        let mut lines: Vec<String> = policy_text(&mut random)
            .lines()
            .map(str::to_owned)
            .collect();
        let mut sets: Vec<Labels> = all.iter().step_by(2).cloned().collect();
        let mut compiler = Compiler::new();
        let mut done = 0;
        for step in 0..EDITS {
            let before = lines.clone();
            match random.below(3) {
                0 => move_guest(&mut sets, &mut random, &all),
                1 => edit(&mut lines, &mut random, step),
                _ => {
                    move_guest(&mut sets, &mut random, &all);
                    edit(&mut lines, &mut random, step);
                }
            }
            let text = lines.join("\n");
            let (Some(policy), _) = parse("random", text.as_bytes()) else {
                lines = before;
                continue;
            };
            same(
                &mut compiler,
                policy,
                &sets,
                &format!("seed {seed} step {step}\n{text}"),
            );
            done += 1;
        }
        (short, long) = (short + done - compiler.full(), long + compiler.full());
    }
    assert!(short > long, "{short} by what was known, {long} anew");
}

fn same(compiler: &mut Compiler, policy: Policy, sets: &[Labels], context: &str) {
    let input = CompileInput {
        label_sets: sets.to_vec(),
        date: today(),
    };
    let anew = compile(&policy, &input);
    let again = compiler.compile(&Arc::new(policy), &input);
    match (anew, again) {
        (Ok(anew), Ok(again)) => {
            assert_eq!(*again, anew, "{context}");
            assert!(
                again.canonical_bytes() == anew.canonical_bytes(),
                "{context}"
            );
        }
        (anew, again) => assert_eq!(anew.as_ref(), again.as_ref().copied(), "{context}"),
    }
}
