//! How long the checker takes over all certificates of a policy, from the document's bytes on.

use super::world::{self, Size};
use super::{Extent, Measured};
use crate::clock;
use anyhow::{Context, ensure};
use lictor_analysis::Prover;
use std::sync::Arc;

/// Times that it is checked. The least counts.
const ROUNDS: usize = 3;

/// All certificates of the world of the row `proof`.
///
/// # Errors
/// A certificate is refused.
pub fn certificate(extent: Extent) -> Measured {
    let size = match extent {
        Extent::Full => Size::TEN,
        Extent::Quick => Size::SMALL,
    };
    let (policy, estate) = (world::policy(size)?, world::estate(size));
    let mut prover = Prover::new(Arc::new(policy), Arc::new(estate), world::today()?)?;
    let document = serde_json::to_vec(&prover.certify()?).context("the certificates")?;
    let mut least = f64::MAX;
    let mut note = String::new();
    for _ in 0..ROUNDS {
        let start = clock::thread()?;
        let (held, failed) = lictor_checker::check(&document).map_err(anyhow::Error::msg)?;
        least = least.min((clock::thread()? - start).as_secs_f64());
        ensure!(
            held + failed == prover.policy().intents.len(),
            "some were not checked"
        );
        let megabytes = document.len() as f64 / 1e6;
        note = format!("{held} held, {failed} failed, {megabytes:.1} MB");
    }
    Ok((least, Some(note)))
}
