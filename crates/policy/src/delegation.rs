//! Delegations: what a policy lets the holder of a key bind. The release's own delegations, which
//! name the key itself, must lie inside of these.

use crate::Labels;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What stands for every value of a label.
const EVERY: &str = "*";

/// Leave to bind labels and addresses to guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// Its name.
    pub name: String,
    /// The name of the key that may.
    pub key: String,
    /// Label sets that it may bind; the value `*` stands for any.
    pub labels: Vec<Labels>,
    /// Guests that it may bind at most.
    pub guests_max: u32,
    /// Where their addresses lie.
    pub prefixes: Vec<IpNet>,
    /// Where their vnics lie.
    pub segments: Vec<u32>,
    /// The line on which it stands, from 1.
    pub line: usize,
}

impl Delegation {
    /// Whether a label set, in which `*` may stand for a value, lies inside of this one.
    #[must_use]
    pub fn covers_labels(&self, labels: &Labels) -> bool {
        self.labels.iter().any(|known| {
            let same = known.len() == labels.len();
            same && labels.iter().all(|(name, value)| {
                let own = known.get(name);
                own.is_some_and(|own| own == EVERY || own == value)
            })
        })
    }

    /// Whether a prefix lies inside of one of its prefixes.
    #[must_use]
    pub fn covers_prefix(&self, prefix: &IpNet) -> bool {
        self.prefixes.iter().any(|own| own.contains(prefix))
    }
}
