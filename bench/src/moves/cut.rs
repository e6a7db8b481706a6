//! Guests that somebody moves round the protocol to a host without an agent: for how long they are
//! heard there, by a capture at that host's port.

use super::Extent;
use super::goals::{Cut, Measured};
use super::lane::Guarded;
use super::world::{DB, World, stream};
use anyhow::{Context, Result};

/// Moves the guest away, and then others like it: none comes back from there.
pub(super) fn measure(world: World, extent: &Extent, measured: &mut Measured) -> Result<()> {
    let World {
        guarded,
        reader,
        site,
        streams,
        ..
    } = world;
    let (mut first, mut streams) = (Some(guarded), streams);
    // Those that stand for hosts without Lictor in the other parts have their names already.
    let there = site.lab().host("e")?;
    let mut cut = Cut::default();
    for number in 1..=extent.cuts {
        eprintln!("bench: cut, move {number} of {}", extent.cuts);
        let guest = match first.take() {
            Some(guest) => guest,
            None => {
                let guest = Guarded::boot(&site)?;
                streams.push(stream(&reader, &DB)?);
                guest
            }
        };
        let heard = guest.goes_astray(&site, &there);
        let heard = heard.with_context(|| format!("move {number}"))?;
        cut.moves += 1;
        cut.heard += u32::from(!heard.is_zero());
        cut.longest_s = cut.longest_s.max(heard.as_secs_f64());
    }
    measured.cut = Some(cut);
    Ok(())
}
