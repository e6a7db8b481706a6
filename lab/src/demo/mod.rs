//! The demo: all of Lictor on real guests, step by step. Each step returns what it saw; the runner
//! goes on after a failure wherever a later step can still be tried.

mod decisions;
mod evidence;
mod fabric;
mod flows;
mod moves;
mod packs;
mod releases;
mod summary;
mod world;

pub use summary::{MoveRow, SUMMARY, Step, Summary};
pub use world::World;

use crate::site::Programs;
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the demo needs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The project's programs.
    pub programs: Programs,
    /// The folder with the two versions of the demo's policy.
    pub policies: PathBuf,
    /// Where summary, report and pack go. It is emptied first.
    pub folder: PathBuf,
}

/// Who is told how the demo goes.
pub trait Audience {
    /// A step begins.
    fn begins(&mut self, name: &str);
    /// It has ended.
    fn ended(&mut self, step: &Step);
}

type Show = fn(&mut World) -> Result<String>;

/// The steps in order, after the world was built.
const STEPS: &[(&str, Show)] = &[
    (
        "each QEMU has the interlock that its owner chose",
        moves::interlocked,
    ),
    ("an allowed flow passes", flows::allowed),
    (
        "corp to db is dropped on one host",
        flows::denied_on_one_host,
    ),
    ("a spoofed source is dropped", flows::spoofed),
    ("a snapshot of db leaves its traffic alone", moves::snapshot),
    ("db moves live from a to b", moves::db),
    (
        "corp to db is dropped across hosts",
        flows::denied_across_hosts,
    ),
    ("db may not move to an unprotected host", moves::refused),
    ("batch moves to c, allowed with alarm", moves::batch_leaves),
    ("batch comes back under a verdict", moves::batch_returns),
    ("a revoked rule ends its live session", releases::revoked),
    ("one signature is not enough", releases::one_signature),
    ("the assessor accepts the evidence pack", packs::accepted),
    ("one flipped byte is found and named", packs::flipped),
];

/// What the first step, which all others need, is called.
const FIRST: &str = "manager, agents, release and guests are up";

/// The names of all steps, in order.
pub fn steps() -> impl Iterator<Item = &'static str> {
    std::iter::once(FIRST).chain(STEPS.iter().map(|(name, _)| *name))
}

/// A demo that has run, with its world still there if it was built.
#[derive(Debug)]
pub struct Shown {
    /// What was shown.
    pub summary: Summary,
    /// Hosts and guests; they go when this drops.
    pub world: Option<World>,
}

/// Runs every step and writes the summary.
///
/// # Errors
/// The folder cannot be written. A step that fails is no error but a step that was not shown.
pub fn run(options: &Options, audience: &mut dyn Audience) -> Result<Shown> {
    if options.folder.exists() {
        std::fs::remove_dir_all(&options.folder)?;
    }
    std::fs::create_dir_all(&options.folder)?;
    let mut world = None;
    let mut steps = vec![step(audience, FIRST, || {
        let (built, saw) = World::build(options)?;
        world = Some(built);
        Ok(saw)
    })];
    for (name, show) in STEPS {
        steps.push(step(audience, name, || match &mut world {
            Some(world) => show(world),
            None => bail!("not tried: there are no guests"),
        }));
    }
    let summary = Summary {
        steps,
        moves: world
            .as_ref()
            .map_or_else(Vec::new, |world| world.moves.clone()),
        report: existing(options.folder.join(packs::REPORT)),
        pack: existing(options.folder.join(packs::PACK)),
    };
    summary.write(&options.folder)?;
    Ok(Shown { summary, world })
}

fn step(audience: &mut dyn Audience, name: &str, show: impl FnOnce() -> Result<String>) -> Step {
    audience.begins(name);
    let begin = Instant::now();
    let (ok, detail) = match show() {
        Ok(saw) => (true, saw),
        Err(error) => (false, format!("{error:#}")),
    };
    let step = Step {
        name: name.into(),
        ok,
        detail,
        took_ms: millis(begin.elapsed()),
    };
    audience.ended(&step);
    step
}

fn existing(path: PathBuf) -> String {
    if path.exists() {
        path.display().to_string()
    } else {
        String::new()
    }
}

/// Whole milliseconds, rounded up: a pause is never shown shorter than it was.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// Fails the step unless something holds.
fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<()> {
    if !holds {
        bail!(why());
    }
    Ok(())
}
