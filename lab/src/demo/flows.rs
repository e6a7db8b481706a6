//! Flows that pass, and flows that do not.

use super::decisions::{Wanted, find};
use super::world::{FLOWS, LIMIT, PG, PORTAL, World, at};
use super::{ensure, evidence};
use crate::frame::{Datagram, IPV4, arp_reply, udp4};
use crate::site::pci::{CLIENT, CORP, DB, WEB};
use crate::{ConnectOutcome, CounterStream, connect, inject, wait};
use anyhow::{Context, Result};
use lictor_types::{Mac, Reason, Verdict};
use std::time::Duration;

/// A denied connection is one that gets no answer: longer than a first SYN waits for its second.
const DENIED: Duration = Duration::from_millis(1_500);

/// A client reaches the portal, and web and batch reach the database, each by its own rule.
pub(super) fn allowed(world: &mut World) -> Result<String> {
    // An address that was attested a moment ago reaches the other host with its next round.
    let hold = || Ok(CounterStream::hold(world.client.netns(), at(&WEB, PORTAL)).ok());
    let stream = wait::until("a connection to the portal", LIMIT, hold)?;
    stream.log().wait_for(FLOWS, LIMIT)?;
    let rule = |guest, rule, port| Wanted {
        guest,
        verdict: Verdict::Allow,
        reason: Reason::PolicyAllow,
        rule,
        port: Some(port),
    };
    let portal = find(world, 0, rule("client", "pay/portal", PORTAL))?;
    let app = find(world, 0, rule("web", "pay/app-db", PG))?;
    find(world, 0, rule("batch", "pay/batch-db", PG))?;
    Ok(format!("{portal}; {app}"))
}

/// Where two guests are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distance {
    OneHost,
    AcrossHosts,
}

/// The packet does not leave the host on which both ends are.
pub(super) fn denied_on_one_host(world: &mut World) -> Result<String> {
    denied(world, Distance::OneHost)
}

/// After db has moved, corp is on another host.
pub(super) fn denied_across_hosts(world: &mut World) -> Result<String> {
    denied(world, Distance::AcrossHosts)
}

/// An office machine does not reach the database: no answer comes, and the rule is written down.
fn denied(world: &World, distance: Distance) -> Result<String> {
    let (corp, db) = (world.a.node().name(), world.db.host().node().name());
    let found = if corp == db {
        Distance::OneHost
    } else {
        Distance::AcrossHosts
    };
    ensure(found == distance, || {
        format!("not tried: corp is on {corp} and db on {db}")
    })?;
    let since = evidence::mark(&world.site)?;
    let outcome = connect(world.corp.netns(), at(&DB, PG), DENIED)?;
    ensure(outcome == ConnectOutcome::TimedOut, || {
        format!("corp got an answer from db: {outcome:?}")
    })?;
    let wanted = Wanted {
        guest: "corp",
        verdict: Verdict::Deny,
        reason: Reason::PolicyDeny,
        rule: "guard/corp-cde",
        port: Some(PG),
    };
    let decision = find(world, since, wanted)?;
    Ok(format!("corp on {corp}, db on {db}: {decision}"))
}

/// corp lies about its address, its MAC and in ARP. Each lie has its own reason, and none of the
/// three reaches the fabric.
pub(super) fn spoofed(world: &mut World) -> Result<String> {
    const MARK: &[u8] = b"a lie about the sender";
    let since = evidence::mark(&world.site)?;
    let (own, other, to) = (CORP.mac(), WEB.mac(), CLIENT.mac());
    let datagram = |mac: Mac, ip| Datagram {
        mac: (mac, to),
        ip: (ip, CLIENT.address()),
        port: (40_000, 9),
    };
    let frames = [
        udp4(&datagram(own, WEB.address()), MARK),
        udp4(&datagram(other, CORP.address()), MARK),
        arp_reply((own, to), own, (WEB.address(), CLIENT.address())),
    ];
    inject(world.corp.netns(), "eth0", &frames)?;
    let reasons = [
        Reason::SpoofedAddress,
        Reason::SpoofedMac,
        Reason::SpoofedNeighbour,
    ];
    for reason in reasons {
        let wanted = Wanted {
            guest: "corp",
            verdict: Verdict::Deny,
            reason,
            rule: "",
            port: None,
        };
        find(world, since, wanted).with_context(|| format!("the lie with reason {reason}"))?;
    }
    let leaked = world.fabric.a.frames()?.into_iter().filter(|frame| {
        let marked = frame.head.windows(MARK.len()).any(|part| part == MARK);
        let claimed = frame.source == own
            && frame.ethertype != IPV4
            && frame
                .head
                .windows(4)
                .any(|part| part == WEB.address().octets());
        marked || claimed && frame.destination == to
    });
    let leaked = leaked.count();
    ensure(leaked == 0, || {
        format!("{leaked} spoofed frames reached the fabric")
    })?;
    let names: Vec<_> = reasons.iter().map(|reason| reason.name()).collect();
    Ok(format!(
        "dropped on a at corp: {}; no such frame on the fabric",
        names.join(", ")
    ))
}
