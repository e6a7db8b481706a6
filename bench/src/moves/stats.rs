//! How much one mean is above another, and how sure that is.

use serde::Serialize;

/// The quantile of the normal distribution for 95 %. With fifty values on each side the exact one
/// (Student's) is 1.98.
const SURE: f64 = 1.98;

/// A difference of means and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The difference.
    pub mean: f64,
    /// It is hardly less than this.
    pub low: f64,
    /// It is hardly more than this.
    pub high: f64,
}

/// How much the first kind is above the second (Welch); `None` with fewer than two of a kind.
#[must_use]
pub(super) fn added(with: &[f64], without: &[f64]) -> Option<Interval> {
    let (one, other) = (moments(with)?, moments(without)?);
    let mean = one.0 - other.0;
    let wide = SURE * (one.1 + other.1).sqrt();
    Some(Interval {
        mean,
        low: mean - wide,
        high: mean + wide,
    })
}

/// The mean, and the variance of that mean.
fn moments(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((mean, squares / (count - 1.0) / count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_around_the_difference_and_as_wide_as_the_values_scatter() {
        assert_eq!(added(&[1.0], &[1.0, 2.0]), None);
        let exact = added(&[5.0, 5.0], &[3.0, 3.0]).expect("two of each");
        assert_eq!((exact.mean, exact.low, exact.high), (2.0, 2.0, 2.0));
        // Variances 2 and 8, of means 1 and 4: the root of 5.
        let wide = added(&[4.0, 6.0], &[1.0, 5.0]).expect("two of each");
        assert!(
            (wide.high - 2.0 - SURE * 5_f64.sqrt()).abs() < 1e-9,
            "{wide:?}"
        );
        assert!((wide.mean - 2.0).abs() < 1e-9);
    }
}
