//! Taking turns. Whoever shares the machine's caches and clock disturbs for seconds at a time, so
//! every plant is measured again and again in short pieces, one after the other, and the least of
//! each plant's pieces counts: interference only adds.

use super::plant::Plant;
use super::sample::Samples;
use anyhow::Result;
use rand::seq::SliceRandom as _;

/// Measures every plant this many times, each time in another order, and adds the least of each.
///
/// # Errors
/// As of `measure`.
pub(crate) fn least(
    plants: &[Plant],
    repeats: u32,
    (kind, samples): (&str, &mut Samples),
    mut measure: impl FnMut(&Plant) -> Result<f64>,
) -> Result<()> {
    let mut values = vec![f64::MAX; plants.len()];
    let mut order: Vec<usize> = (0..plants.len()).collect();
    for _ in 0..repeats {
        order.shuffle(&mut rand::thread_rng());
        for &index in &order {
            values[index] = values[index].min(measure(&plants[index])?);
        }
    }
    for (plant, least) in plants.iter().zip(values) {
        samples.add(plant.topology.id, kind, least);
    }
    Ok(())
}
