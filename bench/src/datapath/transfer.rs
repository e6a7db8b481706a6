//! A guest's sessions on their way out of one host and into another, against conntrack-tools with
//! as many entries. Processor time of both: the tools' is their processes' own, in the kernel and
//! outside.

use super::guard;
use super::plant::Plant;
use super::sample::Samples;
use super::topologies::{NFT_10, ONE, with_a_million};
use crate::world::Side;
use anyhow::{Context, Result, ensure};
use lictor_lab::Lab;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use std::path::Path;
use std::time::Duration;

/// Sessions that are moved.
pub const SESSIONS: u32 = 100_000;
/// The names of both sides in the samples.
pub const LICTOR: &str = "lictor";
/// See [`LICTOR`].
pub const CONNTRACK: &str = "conntrack";
/// The names of both ways in the samples.
pub const EXPORT: &str = "export";
/// See [`EXPORT`].
pub const IMPORT: &str = "import";

/// Milliseconds of processor time for all sessions, both ways and both sides.
///
/// # Errors
/// A session was lost on the way.
pub fn rounds(rounds: u32) -> Result<Samples> {
    let lab = Lab::new()?;
    let build = |id| {
        let topology = with_a_million(id).with_context(|| format!("no topology {id}"))?;
        Plant::build(&lab, &topology)
    };
    let (nft, lictor) = (build(NFT_10)?, build(ONE)?);
    guard::establish(&nft, SESSIONS)?;
    guard::establish(&lictor, SESSIONS)?;
    let mut samples = Samples::default();
    for round in 0..rounds {
        eprintln!("bench: transfer, round {} of {rounds}", round + 1);
        samples.begin_round();
        through_lictor(&lictor, &mut samples)?;
        through_tools(&nft, &mut samples)?;
    }
    Ok(samples)
}

fn through_lictor(plant: &Plant, samples: &mut Samples) -> Result<()> {
    let datapath = plant.datapath.as_ref().context("Lictor guards it")?;
    let vnic = Side::Near.vnic();
    let (records, took) = used(UsageWho::RUSAGE_SELF, || Ok(datapath.export(vnic)?))?;
    ensure!(
        records.len() == SESSIONS as usize,
        "{} of {SESSIONS} sessions came out",
        records.len()
    );
    samples.add(LICTOR, EXPORT, took);
    datapath.purge(vnic)?;
    let (receipt, took) = used(UsageWho::RUSAGE_SELF, || {
        Ok(datapath.import(vnic, &records)?)
    })?;
    ensure!(
        receipt.imported == u64::from(SESSIONS),
        "{} of {SESSIONS} sessions went in: {:?}",
        receipt.imported,
        receipt.refused.first()
    );
    samples.add(LICTOR, IMPORT, took);
    Ok(())
}

fn through_tools(plant: &Plant, samples: &mut Samples) -> Result<()> {
    let path = plant.hypervisor.folder().join("saved");
    let ((), took) = used(UsageWho::RUSAGE_CHILDREN, || dump(plant, &path))?;
    entries(&path, SESSIONS)?;
    samples.add(CONNTRACK, EXPORT, took);
    guard::conntrack(plant, &["-F"])?;
    let ((), took) = used(UsageWho::RUSAGE_CHILDREN, || restore(plant, &path))?;
    super::path::still_established(plant, SESSIONS)?;
    samples.add(CONNTRACK, IMPORT, took);
    Ok(())
}

/// Writes every entry of the kernel's table into a file, as `conntrack` does it.
///
/// # Errors
/// It is not installed, or fails.
pub(crate) fn dump(plant: &Plant, path: &Path) -> Result<()> {
    let mut list = plant.hypervisor.command("conntrack");
    list.args(["-L", "-o", "save"])
        .stdout(std::fs::File::create(path)?)
        .stderr(std::process::Stdio::null());
    let status = list.status().context("conntrack; see cargo xtask setup")?;
    ensure!(status.success(), "conntrack -L ended with {status}");
    Ok(())
}

/// Whether so many came out.
pub(crate) fn entries(path: &Path, sessions: u32) -> Result<()> {
    let lines = std::fs::read_to_string(path)?.lines().count();
    ensure!(
        lines == sessions as usize,
        "{lines} of {sessions} conntrack entries came out"
    );
    Ok(())
}

/// Reads them in again.
pub(crate) fn restore(plant: &Plant, path: &Path) -> Result<()> {
    let file = path.display().to_string();
    guard::conntrack(plant, &["-R", &file])
}

/// Milliseconds of processor time that some work took.
fn used<T>(who: UsageWho, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let total = |usage: Usage| {
        let all = usage.user_time() + usage.system_time();
        Duration::from_micros(all.num_microseconds().unsigned_abs())
    };
    let before = total(getrusage(who)?);
    let value = work()?;
    let used = total(getrusage(who)?).saturating_sub(before);
    Ok((value, used.as_secs_f64() * 1e3))
}
