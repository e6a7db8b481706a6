//! Every goal of the data plane's speed, measured beside what it replaces.

pub mod guard;
pub mod load;
pub mod path;
pub mod plant;
pub mod sample;
pub mod topologies;

use crate::injector::Injector;
use anyhow::Result;
use lictor_lab::Lab;
use plant::{Plant, Topology};
use sample::Samples;

pub fn trial() -> Result<()> {
    let lab = Lab::new()?;
    let mut plants = Vec::new();
    for t in &topologies::ALL {
        eprintln!("building {}", t.id);
        plants.push(Plant::build(&lab, t)?);
    }
    let mut injector = Injector::load()?;
    for p in &plants {
        p.open_path(&injector)?;
    }
    let mut s = Samples::default();
    let t = std::time::Instant::now();
    path::rounds(
        &plants,
        &mut injector,
        path::Extent {
            rounds: 3,
            packets: 100_000,
            repeats: 2,
            misses: 30_000,
        },
        &mut s,
    )?;
    eprintln!("path {:?}", t.elapsed());
    for r in s.rows("none", "ns") {
        println!(
            "{:<18}{:<8}{:>9.1} {:>9.1} {:>9.1}  {:>8.1} {:>6.3}",
            r.topology,
            r.kind,
            r.value.median,
            r.value.min,
            r.value.max,
            r.added.unwrap().median,
            r.ratio.unwrap().median
        );
    }
    for p in &plants {
        p.close_path()?;
    }
    let t = std::time::Instant::now();
    let mut s = Samples::default();
    load::rounds(
        &plants,
        load::Extent {
            rounds: 2,
            lasting: std::time::Duration::from_millis(200),
        },
        &mut s,
    )?;
    eprintln!("e2e {:?}", t.elapsed());
    for r in s.rows("none", "ns") {
        println!(
            "{:<18}{:<8}{:>9.1} {:>9.1} {:>9.1}  {:>8.1} {:>6.3}",
            r.topology,
            r.kind,
            r.value.median,
            r.value.min,
            r.value.max,
            r.added.unwrap().median,
            r.ratio.unwrap().median
        );
    }
    Ok(())
}
