//! Small random policies, and ends that they tell apart.

#![allow(dead_code, reason = "each test uses its own part")]

use lictor_policy::{Date, Labels, Policy, parse, render};
use std::fmt::Write as _;

/// SplitMix64: a whole test from one number.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }
}

pub(crate) const HEAD: &str = "policy \"random\" version 1
label zone : one-of cde corp dmz required
label tier : one-of web db
label app : string
set wide = 10.0.0.0/8 2001:db8::/32
set mid = 10.1.0.0/16 2001:db8:1::/48 192.0.2.0/24
set host = 10.1.1.1 2001:db8:1::1 192.0.2.7
set all4 = 0.0.0.0/0
scope cde = zone:cde
scope near = computed one-hop cde
scope linked = computed closure cde
window work = mon-fri
window rest = sat sun
scope mixed = zone:dmz & tier:web or set:host
";

pub(crate) const SERVICES: [&str; 13] = [
    "any",
    "tcp",
    "tcp/22",
    "tcp/20-30",
    "tcp/25-443, udp/53",
    "udp/0-52",
    "icmp/echo",
    "icmpv6/echo",
    "ip/47",
    "tcp/65535, ip/0-255",
    "icmp/3/4, sctp/2905",
    "icmp/3, udplite",
    "sctp, gre",
];

pub(crate) const ADDRESSES: [&str; 12] = [
    "9.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "10.1.0.0",
    "10.1.1.1",
    "10.1.1.2",
    "11.0.0.0",
    "192.0.2.7",
    "2001:db8::",
    "2001:db8:1::1",
    "2001:db8:1::2",
    "2001:db9::",
];

pub(crate) fn selector(random: &mut Random, depth: u64) -> String {
    const LEAVES: [&str; 18] = [
        "hosts",
        "host:h1",
        "app:*",
        "any",
        "guests",
        "outside",
        "zone:cde",
        "zone:corp",
        "zone:dmz",
        "tier:web",
        "tier:db",
        "app:pay",
        "set:wide",
        "set:mid",
        "set:host",
        "set:all4",
        "scope:cde",
        "scope:mixed",
    ];
    if depth == 0 || random.below(3) == 0 {
        return random.pick(&LEAVES).to_owned();
    }
    let one = selector(random, depth - 1);
    match random.below(3) {
        0 => format!("not ({one})"),
        1 => format!("({one}) & ({})", selector(random, depth - 1)),
        _ => format!("({one}) or ({})", selector(random, depth - 1)),
    }
}

/// Only what does not allow may name a computed scope.
pub(crate) fn end(random: &mut Random, action: &str) -> String {
    match (action, random.below(6)) {
        ("deny" | "reject" | "pass", 0) => "scope:near".to_owned(),
        ("deny" | "reject" | "pass", 1) => "not scope:linked".to_owned(),
        _ => selector(random, 2),
    }
}

pub(crate) fn rules(random: &mut Random, actions: &[&str], count: u64, windows: bool) -> String {
    let mut text = String::new();
    for index in 0..count {
        let action = random.pick(actions);
        let (from, to) = (end(random, action), end(random, action));
        let at = random.pick(&["", "", "at egress", "at ingress"]);
        let during = match windows {
            // One window for a policy: two that meet are refused.
            true => random.pick(&["", "during rest", "during rest"]),
            false => "",
        };
        let service = random.pick(&SERVICES);
        // Names that sort otherwise than they stand.
        let name = format!("r{}", (index * 7) % 10);
        let expires = match (action, random.below(4)) {
            ("allow", 0) => "expires 2026-11-23",
            ("allow", 1) => "expires 2026-11-24",
            _ => "",
        };
        let log = random.pick(&["", "log new", "log off", "log all log-limit 5/s"]);
        let limit = match (action, random.below(3)) {
            ("allow", 0) => random.pick(&["limit 5/s", "limit 9/s"]),
            _ => "",
        };
        writeln!(
            text,
            "{action} {name} from {from} to {to} service {service} {at} {expires} {during} {log} \
             {limit}"
        )
        .expect("text takes all");
    }
    if random.below(3) == 0 {
        let to = selector(random, 1);
        writeln!(text, "allow lldp from any to {to} service ether/0x88cc").expect("text takes all");
    }
    text
}

pub(crate) fn policy_text(random: &mut Random) -> String {
    let mut text = HEAD.to_owned();
    let expiry =
        |random: &mut Random| random.pick(&["", "on-expiry drop", "on-expiry keep-and-alarm"]);
    let mode = |random: &mut Random| random.pick(&["", "", "observe"]);
    let (kept, count) = (expiry(random), random.below(5));
    let windows = random.below(3) == 0;
    let mode = |random: &mut Random| match windows {
        true => "",
        false => mode(random),
    };
    let guard = rules(random, &["allow", "deny", "reject", "pass"], count, false);
    let seen = mode(random);
    writeln!(text, "tier guard ordered {seen} {kept} {{\n{guard}}}").expect("text takes all");
    for name in ["second", "third"] {
        let (kept, count) = (expiry(random), random.below(4));
        let rules = rules(random, &["allow", "deny", "pass"], count, false);
        let seen = mode(random);
        writeln!(text, "tier {name} ordered {seen} {kept} {{\n{rules}}}").expect("text takes all");
    }
    for name in ["zeta", "alpha"] {
        let (kept, count) = (expiry(random), random.below(4));
        let rules = rules(random, &["allow"], count, windows);
        let seen = mode(random);
        writeln!(text, "tier {name} allow-only {seen} {kept} {{\n{rules}}}")
            .expect("text takes all");
    }
    for word in ["isolate", "exclude"] {
        for end in ["2026-11-23", "2026-11-24"] {
            if random.below(6) == 0 {
                let guests = selector(random, 1);
                writeln!(
                    text,
                    "{word} n{} {guests} owner \"o\" justification \"j\" expires {end}",
                    &end[8..]
                )
                .expect("text takes all");
            }
        }
    }
    for end in ["", "expires 2026-11-23", "expires 2026-11-24"] {
        if random.below(6) == 0 {
            let guests = selector(random, 1);
            writeln!(text, "observe {guests} owner \"o\" {end}").expect("text takes all");
        }
    }
    if random.below(2) == 0 {
        text.push_str("tier baseline { deny all log new }\n");
    }
    text
}

/// Every combination of the labels, missing and wrong ones too.
pub(crate) fn guests() -> Vec<Labels> {
    let options = |name: &'static str, values: &'static [&'static str]| {
        let given = values
            .iter()
            .map(move |value| Some((name.to_owned(), (*value).to_owned())));
        given.chain([None]).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for zone in options("zone", &["cde", "corp", "dmz", "moon"]) {
        for tier in options("tier", &["web", "db"]) {
            for app in options("app", &["pay", "shop"]) {
                all.push(
                    [&zone, &tier, &app]
                        .into_iter()
                        .flatten()
                        .cloned()
                        .collect(),
                );
            }
        }
    }
    // Hosts need no label but their own.
    for (host, zone) in [("h1", None), ("h2", None), ("h1", Some("cde"))] {
        let mut labels = Labels::from([("host".to_owned(), host.to_owned())]);
        labels.extend(zone.map(|zone| ("zone".to_owned(), zone.to_owned())));
        all.push(labels);
    }
    all
}

pub(crate) fn parsed(text: &str, context: &str) -> Policy {
    let (policy, diagnostics) = parse("random", text.as_bytes());
    policy.unwrap_or_else(|| panic!("{context}\n{}", render(&diagnostics, text.as_bytes())))
}

pub(crate) fn today() -> Date {
    "2026-11-24".parse().expect("a date")
}

/// A number of the environment: how much is tried.
pub(crate) fn number(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text}: expected a number")),
        Err(_) => usual,
    }
}
