//! A guest with several vnics goes with all of them or stays with all of them.

use super::*;
use lictor_lab::Vnic;
use lictor_types::VnicId;
use std::collections::BTreeMap;

const TWO: Guest = Guest { vnics: 2, ..DB };

/// Attaches every vnic with its own address.
fn attach(agent: &Agent, vnic: &Vnic, arrival: Arrival) -> Result<()> {
    let address = TWO.address_of(u8::try_from(vnic.number)?);
    let attached = agent.attach(vnic, &[IpAddr::V4(address)], arrival)?;
    assert!(attached.before_first_packet, "{attached:?}");
    Ok(())
}

fn all_are(report: &GuestReport, state: VnicState) -> bool {
    report.vnics.len() == 2 && report.vnics.iter().all(|vnic| vnic.state == state)
}

fn receive_both(agent: &Agent) -> Result<QemuGuest> {
    let spec = TWO.spec(&SERVICES);
    (agent.host()).receive(&spec, |vnic| attach(agent, vnic, Arrival::Incoming))
}

/// Web on host a, which reaches the guest by both of its vnics, and a stream by each.
struct Both {
    _watched: Watched,
    streams: [CounterStream; 2],
    db: QemuGuest,
    _web: NsGuest,
    site: Site,
}

impl Both {
    fn new() -> Result<Self> {
        let site = site_of(&[WEB, TWO])?;
        let watched = Watched::begin(&site, &TWO)?;
        let a = site.agent("a")?;
        let ours = [0, 1].map(|vnic| IpAddr::V4(WEB.address_of(vnic)));
        let mut spec = WEB.spec(&[]);
        let prefix = spec.addresses[0].1;
        spec.addresses = ours.map(|address| (address, prefix)).to_vec();
        let web = a.host().namespace_guest(&spec, |vnic| {
            a.attach(vnic, &ours, Arrival::Start).map(drop)
        })?;
        let db = (a.host()).boot(&TWO.spec(&SERVICES), |vnic| attach(a, vnic, Arrival::Start))?;
        db.wait_up(LIMIT)?;
        wait_for(a, &TWO, |one| {
            one.interlocked && all_are(one, VnicState::Open)
        })?;
        let hold = |vnic| hold_stream(&web, TWO.address_of(vnic));
        Ok(Self {
            _watched: watched,
            streams: [hold(0)?, hold(1)?],
            db,
            _web: web,
            site,
        })
    }

    fn go_on(&self) -> Result<()> {
        for stream in &self.streams {
            let count = stream.log().report().count;
            let report = stream.log().wait_for(count + 50, LIMIT)?;
            assert!(report.contiguous && report.ended.is_none(), "{report:?}");
        }
        Ok(())
    }
}

/// Sessions of each vnic, as its host's kernel has them.
fn sessions(agent: &Agent) -> Result<BTreeMap<VnicId, u64>> {
    let report = agent.guest(TWO.name)?.context("it is attached here")?;
    let vnics = report.vnics.into_iter();
    Ok(vnics.map(|vnic| (vnic.vnic, vnic.sessions)).collect())
}

#[test]
fn a_guest_with_two_vnics_moves_with_the_sessions_of_both_under_one_record() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let both = Both::new()?;
    let [a, b] = ends(&both.site);
    admitted(a, &TWO, "b")?;
    let target = receive_both(b)?;
    a.wait_for_phase(TWO.name, &[MovePhase::Copied], LIMIT)?;
    // Held at the fence for as long as the source is looked at.
    b.pause()?;
    let (mark, options) = (both.db.qmp().mark(), MigrateOptions::default());
    both.db.start_migration(&target, &options)?;
    a.wait_for_phase(TWO.name, &[MovePhase::Fenced], LIMIT)?;
    wait_for(a, &TWO, |one| all_are(one, VnicState::HandedOver))?;
    let fenced = sessions(a)?;
    b.go_on()?;
    let report = both.db.finish_migration(&target, mark, &options)?;
    assert_eq!(report.status, "completed", "{report:?}; {}", b.log());
    a.wait_for_phase(TWO.name, &[MovePhase::Done], LIMIT)?;
    wait_for(b, &TWO, |one| all_are(one, VnicState::Open))?;
    both.go_on()?;

    let (at_a, at_b) = (wait_recorded(a, 1)?, wait_recorded(b, 1)?);
    assert_eq!(at_a, at_b, "both ends keep the same record");
    let (record, signatures) = &at_a[0];
    assert_eq!((at_a.len(), *signatures), (1, 2));
    assert_eq!(record.outcome, MoveOutcome::Committed);
    assert!(fenced.values().all(|count| *count >= 1), "{fenced:?}");
    assert_eq!(fenced.values().sum::<u64>(), record.sessions.sent);
    assert_eq!(record.sessions.accepted, record.sessions.sent, "{record:?}");
    // Nothing but the two streams talks with the guest: none has begun or ended since.
    assert_eq!(sessions(b)?, fenced);
    assert_eq!(record.unprotected_packets, Some(0), "{record:?}");
    Ok(())
}

/// A fault that strikes one of the two vnics at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nobody asks its agent for the second one.
    NotAttached,
    /// Its device goes between the fence and the opening.
    DeviceGone,
}

fn strike(both: &Both, fault: Fault) -> Result<()> {
    let [a, b] = ends(&both.site);
    admitted(a, &TWO, "b")?;
    let spec = TWO.spec(&SERVICES);
    let target = b.host().receive(&spec, |vnic| {
        if fault == Fault::NotAttached && vnic.number == 1 {
            return Ok(());
        }
        attach(b, vnic, Arrival::Incoming)
    })?;
    let (mark, options) = (both.db.qmp().mark(), MigrateOptions::default());
    if fault == Fault::DeviceGone {
        a.wait_for_phase(TWO.name, &[MovePhase::Copied], LIMIT)?;
        b.pause()?;
        both.db.start_migration(&target, &options)?;
        a.wait_for_phase(TWO.name, &[MovePhase::Fenced], LIMIT)?;
        let second = target.vnics()[1].device.clone();
        b.host().netns().ip(&format!("link del {second}"))?;
        b.go_on()?;
    } else {
        wait_for(b, &TWO, |one| one.interlocked)?;
        both.db.start_migration(&target, &options)?;
    }
    let report = both.db.finish_migration(&target, mark, &options)?;
    assert_eq!(report.status, "failed", "{report:?}; {}", b.log());
    drop(target);
    Ok(())
}

#[test]
fn one_vnic_that_cannot_be_opened_at_the_target_keeps_the_whole_guest_at_its_source() -> Result<()>
{
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let both = Both::new()?;
    let a = both.site.agent("a")?;
    for (number, fault) in (1..).zip([Fault::DeviceGone, Fault::NotAttached]) {
        strike(&both, fault).with_context(|| format!("{fault:?}"))?;
        wait_for(a, &TWO, |one| all_are(one, VnicState::Open))
            .with_context(|| format!("{fault:?}; {}", a.log()))?;
        both.go_on().with_context(|| format!("{fault:?}"))?;
        let records = wait_recorded(a, number)?;
        assert_eq!(records[number - 1].0.outcome, MoveOutcome::Aborted);
    }
    Ok(())
}
