//! What was measured, by topology, kind and round.

use crate::report::Spread;
use serde::Serialize;
use std::collections::BTreeMap;

type Key = (String, String);

/// All values of one phase.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    rounds: Vec<BTreeMap<Key, Vec<f64>>>,
}

/// One topology and kind over all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which topology.
    pub topology: String,
    /// Which kind of packet or load.
    pub kind: String,
    /// The unit of `value` and `added`.
    pub unit: &'static str,
    /// The measured value.
    pub value: Spread,
    /// What it is above the base of the same round.
    pub added: Option<Spread>,
    /// What it is as a share of the base of the same round.
    pub ratio: Option<Spread>,
}

impl Samples {
    /// What is added from now on belongs together.
    pub fn begin_round(&mut self) {
        self.rounds.push(BTreeMap::new());
    }

    /// Adds a value; several of one round and key are averaged.
    pub fn add(&mut self, topology: &str, kind: &str, value: f64) {
        if self.rounds.is_empty() {
            self.begin_round();
        }
        if let Some(round) = self.rounds.last_mut() {
            let key = (topology.into(), kind.into());
            round.entry(key).or_default().push(value);
        }
    }

    fn value(round: &BTreeMap<Key, Vec<f64>>, topology: &str, kind: &str) -> Option<f64> {
        let values = round.get(&(topology.to_owned(), kind.to_owned()))?;
        Spread::of(values).map(|spread| spread.median)
    }

    /// The values of one topology and kind, round by round.
    #[must_use]
    pub fn values(&self, topology: &str, kind: &str) -> Vec<f64> {
        let of = |round| Self::value(round, topology, kind);
        self.rounds.iter().filter_map(of).collect()
    }

    /// A value of each round, out of two topologies of that round.
    #[must_use]
    pub fn paired(
        &self,
        (topology, base): (&str, &str),
        kind: &str,
        join: impl Fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        let of = |round| {
            let one = Self::value(round, topology, kind)?;
            Some(join(one, Self::value(round, base, kind)?))
        };
        let values: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        Spread::of(&values)
    }

    /// What one topology adds to the base, as a share of what another adds, by the median of all
    /// rounds.
    #[must_use]
    pub fn share(&self, (topology, other, base): (&str, &str, &str), kind: &str) -> Option<f64> {
        let of = |round| {
            let base = Self::value(round, base, kind)?;
            let added = Self::value(round, topology, kind)? - base;
            Some(added / (Self::value(round, other, kind)? - base))
        };
        let values: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        Spread::of(&values).map(|spread| spread.median)
    }

    /// A topology as a share of the base, by the median of all rounds.
    #[must_use]
    pub fn ratio(&self, topology: &str, base: &str, kind: &str) -> Option<f64> {
        self.paired((topology, base), kind, |one, base| one / base)
            .map(|spread| spread.median)
    }

    /// One row for each topology and kind, compared with the base.
    #[must_use]
    pub fn rows(&self, base: &str, unit: &'static str) -> Vec<Row> {
        let mut keys: Vec<&Key> = self.rounds.iter().flat_map(BTreeMap::keys).collect();
        keys.sort();
        keys.dedup();
        let row = |(topology, kind): &Key| {
            let pair = (topology.as_str(), base);
            Some(Row {
                topology: topology.clone(),
                kind: kind.clone(),
                unit,
                value: Spread::of(&self.values(topology, kind))?,
                added: self.paired(pair, kind, |one, base| one - base),
                ratio: self.paired(pair, kind, |one, base| one / base),
            })
        };
        keys.into_iter().filter_map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topologies_are_compared_within_their_round() {
        let mut samples = Samples::default();
        for (base, guarded) in [(100.0, 150.0), (200.0, 260.0), (300.0, 350.0)] {
            samples.begin_round();
            samples.add("none", "est-1", base - 1.0);
            samples.add("none", "est-1", base + 1.0);
            samples.add("nft", "est-1", guarded);
        }
        samples.add("other", "est-1", 310.0);
        assert_eq!(samples.share(("nft", "other", "none"), "est-1"), Some(5.0));
        assert_eq!(samples.ratio("nft", "none", "est-1"), Some(1.3));
        assert_eq!(samples.ratio("nft", "none", "new"), None);
        let rows = samples.rows("none", "ns");
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[1].value.median, 200.0);
    }
}
