//! Estates and policies of a given size: tiered applications, of which one in twenty stores cards,
//! services that all share, guards above, wide allowances and ranges of ports.

use anyhow::{Context, Result, bail};
use lictor_policy::{Date, Estate, EstateGuest, EstateHost, Labels, Policy, parse};
use std::fmt::Write as _;

/// Guests of one application, each with a label of its own.
const TIERS: [&str; 4] = ["web", "app", "db", "mgmt"];
/// Hosts of the estate.
const HOSTS: usize = 100;
/// Hosts that one guest may run on.
const CHOICE: usize = 8;
/// Different ports that applications use.
const PORTS: usize = 1_450;
/// Applications that all others use.
const SHARED: usize = 3;

/// How large a world is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Applications, each of four guests.
    pub apps: usize,
    /// Rules of each application.
    pub rules: usize,
}

impl Size {
    /// 10 k guests that the policy tells apart, 10 k rules.
    pub const TEN: Self = Self {
        apps: 2_500,
        rules: 4,
    };
    /// 5 k guests that the policy tells apart, 50 k rules.
    pub const FIFTY: Self = Self {
        apps: 1_250,
        rules: 40,
    };
    /// A look.
    pub const SMALL: Self = Self {
        apps: 100,
        rules: 4,
    };
}

/// The day of every measurement.
///
/// # Errors
/// None, as long as the constant is a date.
pub fn today() -> Result<Date> {
    "2026-11-24".parse().context("the day of the measurements")
}

fn zone(app: usize) -> &'static str {
    match app % 20 {
        _ if app < SHARED => "shared",
        4 => "cde",
        5 | 6 => "dmz",
        7..=13 => "corp",
        _ => "office",
    }
}

/// The policy as text.
#[must_use]
pub fn text(size: Size) -> String {
    let mut text = String::from(
        "policy \"bench\" version 1\n\
         label zone : one-of cde dmz corp office shared required\n\
         label tier : one-of web app db mgmt required\nlabel app : string\n\
         set users = prefix 10.20.0.0/16 2001:db8:20::/48\nset psp = prefix 203.0.113.16/28\n\
         scope cde = zone:cde\n",
    );
    guard(&mut text, size);
    text.push_str("tier apps allow-only {\n");
    for app in 0..size.apps {
        own_rules(&mut text, size, app);
    }
    text.push_str("}\n");
    intents(&mut text);
    text
}

/// Rules above all others, and for one application in a hundred a denial of its own.
fn guard(text: &mut String, size: Size) {
    text.push_str(
        "tier guard ordered {\n\
         deny office from zone:corp or zone:office to scope:cde service any\n\
         deny dmz from zone:dmz to scope:cde & not tier:web service any\n\
         allow portal from set:users to zone:dmz & tier:web service tcp/443\n\
         deny world from outside to scope:cde service any\n",
    );
    for app in (0..size.apps).filter(|app| app % 100 == 50) {
        let port = port(app);
        let _ = writeln!(
            text,
            "deny d{app} from any to app:a{app} & tier:db service tcp/{port}-{}",
            port + 9
        );
    }
    text.push_str("}\n");
    text.push_str("tier shared allow-only {\n");
    for (shared, service) in ["udp/53, tcp/53", "udp/123", "tcp/6514"].iter().enumerate() {
        let _ = writeln!(
            text,
            "allow s{shared} from guests to app:a{shared} & tier:web service {service}"
        );
    }
    text.push_str("allow poll from app:a2 & tier:mgmt to zone:corp or zone:dmz service tcp/9100\n");
    text.push_str("allow psp from zone:cde & tier:app to set:psp service tcp/443\n}\n");
}

fn port(app: usize) -> usize {
    2_000 + 10 * (app % PORTS)
}

fn own_rules(text: &mut String, size: Size, app: usize) {
    let port = port(app);
    // A neighbour in the same zone: what crosses zones goes through the shared services.
    let other = app + 20;
    let other = if other < size.apps { other } else { app % 20 };
    let of = |tier: &str, app: usize| format!("tier:{tier} & app:a{app}");
    for rule in 0..size.rules {
        let (from, to) = match rule % 4 {
            0 => (of("web", app), of("app", app)),
            1 => (of("app", app), of("db", app)),
            2 => (of("mgmt", app), format!("app:a{app}")),
            _ => (of("app", app), of("web", other)),
        };
        let step = rule / 4;
        let service = match rule % 4 {
            0 => format!("tcp/{}", port + step % 10),
            1 => format!("tcp/{}-{}", port + step % 10, port + 12 + step % 10),
            2 => "tcp/22".to_owned(),
            _ => format!("tcp/{}, udp/{}", 443 + step % 10, port + step % 10),
        };
        let _ = writeln!(
            text,
            "allow a{app}r{rule} from {from} to {to} service {service}"
        );
    }
}

/// Twenty intents of every kind; two of them do not hold.
fn intents(text: &mut String) {
    let on = "on any-host under failures 1";
    let _ = write!(
        text,
        "assert i0 : never path from zone:corp to scope:cde within 1 hops {on}\n\
         assert i1 : never path from zone:corp or zone:office to scope:cde {on}\n\
         assert i2 : never path from outside & not set:users to scope:cde within 3 hops\n\
         assert i3 : never path from zone:dmz to scope:cde & tier:db within 2 hops except via \
         zone:cde {on}\n\
         assert i4 : never path from scope:cde to outside within 1 hops except to set:psp service \
         tcp/443\n\
         assert i5 : never path from tier:db to outside within 2 hops {on}\n\
         assert i6 : never path from zone:corp to zone:dmz & tier:db within 4 hops\n\
         assert i7 : never path from outside to tier:mgmt {on}\n\
         assert i8 : only app:a24 & tier:app reaches app:a24 & tier:db service tcp/2240-2252\n\
         assert i9 : only app:a44 reaches app:a44 & tier:db service any {on}\n\
         assert i10 : only tier:mgmt reaches scope:cde service tcp/22 {on}\n\
         assert i11 : only set:users or guests reaches zone:dmz & tier:web service tcp/443\n\
         assert i12 : only guests reaches guests & not zone:dmz service any {on}\n\
         assert i13 : always path from app:a24 & tier:web to app:a24 & tier:app service tcp/2240\n\
         assert i14 : always path from guests to app:a0 & tier:web service udp/53 {on}\n\
         assert i15 : always path from set:users to zone:dmz & tier:web service tcp/443 {on}\n\
         assert i16 : always path from zone:cde & tier:app to set:psp service tcp/443\n\
         assert i17 : scope:cde requires host control firewall ids {on}\n\
         assert i18 : host never runs (zone:cde with guests & not zone:cde) interpretation \
         zone-based {on}\n\
         assert i19 : never path from zone:office to zone:shared & tier:db {on}\n"
    );
}

/// The policy, read.
///
/// # Errors
/// The text has an error.
pub fn policy(size: Size) -> Result<Policy> {
    let text = text(size);
    let (policy, diagnostics) = parse("bench", text.as_bytes());
    match policy {
        Some(policy) => Ok(policy),
        None => bail!("{}", lictor_policy::render(&diagnostics, text.as_bytes())),
    }
}

/// Four guests for each application. Cards are kept on the first tenth of the hosts.
#[must_use]
pub fn estate(size: Size) -> Estate {
    let hosts = (0..HOSTS).map(|host| EstateHost {
        name: format!("h{host}"),
        controls: vec!["firewall".into(), "ids".into()],
        ..EstateHost::default()
    });
    let guests = (0..size.apps).flat_map(|app| TIERS.iter().map(move |tier| (app, *tier)));
    let guests = guests.enumerate().map(|(index, (app, tier))| {
        let own = HOSTS / 10;
        let host = |step: usize| match zone(app) {
            "cde" => format!("h{}", (index + step) % own),
            _ => format!("h{}", own + (index * 7 + step) % (HOSTS - own)),
        };
        let labels = [("zone", zone(app).to_owned()), ("tier", tier.to_owned())];
        let labels = labels.into_iter().chain([("app", format!("a{app}"))]);
        let labels: Labels = labels
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        EstateGuest {
            name: format!("a{app}-{tier}"),
            labels,
            addresses: Vec::new(),
            host: Some(host(0)),
            may_run_on: (0..CHOICE).map(host).collect(),
        }
    });
    Estate {
        guests: guests.collect(),
        hosts: hosts.collect(),
        fabric_trusted: true,
    }
}
