//! Each host's own log, rebuilt from the manager's: a host that skips, repeats or rewrites an entry
//! contradicts a checkpoint that it signed itself.

use crate::merkle::leaf_hash;
use crate::{Body, Checkpoint, Entry, EvidenceError, KeyRole, Source, Tree, VerifyKey};
use lictor_types::HostId;
use std::collections::BTreeMap;

/// What is wrong with a host's log. `index` is the entry of the manager's log that shows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// An entry is missing, repeated or out of order.
    #[error("entry {index} has number {found}; expected {expected}")]
    Gap {
        /// Which entry shows it.
        index: u64,
        /// The number that should follow.
        expected: u64,
        /// The number that follows.
        found: u64,
    },
    /// No key of the host is enrolled that signed this checkpoint.
    #[error("the checkpoint in entry {index} does not verify: {why}")]
    Unsigned {
        /// Which entry shows it.
        index: u64,
        /// Why.
        why: String,
    },
    /// A later checkpoint covers fewer entries than an earlier one.
    #[error("the checkpoint in entry {index} covers {found} entries; {before} were signed before")]
    Shrunk {
        /// Which entry shows it.
        index: u64,
        /// Entries covered.
        found: u64,
        /// Entries covered before.
        before: u64,
    },
    /// The checkpoint covers entries that never arrived.
    #[error("the checkpoint in entry {index} covers {signed} entries; {have} are here")]
    Missing {
        /// Which entry shows it.
        index: u64,
        /// Entries covered.
        signed: u64,
        /// Entries here.
        have: u64,
    },
    /// The entries here are not those that the host signed.
    #[error("the checkpoint in entry {index} has another root over {size} entries")]
    RootDiffers {
        /// Which entry shows it.
        index: u64,
        /// Entries covered.
        size: u64,
    },
}

impl ChainFault {
    /// The entry of the manager's log that shows the fault.
    #[must_use]
    pub const fn index(&self) -> u64 {
        match self {
            Self::Gap { index, .. }
            | Self::Unsigned { index, .. }
            | Self::Shrunk { index, .. }
            | Self::Missing { index, .. }
            | Self::RootDiffers { index, .. } => *index,
        }
    }
}

/// A host's log as the manager's log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostChain {
    /// The host.
    pub host: HostId,
    /// Its entries here.
    pub entries: u64,
    /// The newest of its checkpoints that holds.
    pub anchored: Option<Checkpoint>,
    /// The entry of the manager's log that holds that checkpoint.
    pub anchored_at: Option<u64>,
    /// What is wrong.
    pub faults: Vec<ChainFault>,
}

#[derive(Default)]
struct Builder {
    tree: Tree,
    keys: Vec<VerifyKey>,
    checkpoints: Vec<(u64, String)>,
    faults: Vec<ChainFault>,
}

/// Rebuilds every host's log. The position in the slice is the index in the manager's log.
///
/// # Errors
/// [`EvidenceError::Entry`] if an entry is too long to have been logged.
pub fn host_chains(entries: &[Entry]) -> Result<Vec<HostChain>, EvidenceError> {
    let mut hosts = BTreeMap::<HostId, Builder>::new();
    for (index, entry) in (0..).zip(entries) {
        if let Source::Host(host) = &entry.host {
            let builder = hosts.entry(host.clone()).or_default();
            let expected = builder.tree.len();
            if entry.seq != expected {
                builder.faults.push(ChainFault::Gap {
                    index,
                    expected,
                    found: entry.seq,
                });
            }
            builder.tree.push(leaf_hash(&entry.to_bytes()?));
            continue;
        }
        // Keys and anchors count only out of the manager's own mouth.
        match &entry.body {
            Body::KeyEnrolled {
                role: KeyRole::Agent,
                for_host: Some(host),
                key,
            } => {
                hosts
                    .entry(host.clone())
                    .or_default()
                    .keys
                    .push(key.clone());
            }
            Body::CheckpointAnchored { of, checkpoint } => {
                let builder = hosts.entry(of.clone()).or_default();
                builder.checkpoints.push((index, checkpoint.clone()));
            }
            _ => {}
        }
    }
    Ok(hosts
        .into_iter()
        .map(|(host, builder)| builder.finish(host))
        .collect())
}

impl Builder {
    fn finish(mut self, host: HostId) -> HostChain {
        let (mut anchored, mut anchored_at, mut before) = (None, None, 0);
        for (index, text) in std::mem::take(&mut self.checkpoints) {
            match self.check(index, &text, before) {
                Ok(checkpoint) => {
                    before = checkpoint.size;
                    (anchored, anchored_at) = (Some(checkpoint), Some(index));
                }
                Err(fault) => self.faults.push(fault),
            }
        }
        HostChain {
            host,
            entries: self.tree.len(),
            anchored,
            anchored_at,
            faults: self.faults,
        }
    }

    fn check(&self, index: u64, text: &str, before: u64) -> Result<Checkpoint, ChainFault> {
        let mut why = "no key of this host is enrolled".to_owned();
        let mut verified = None;
        for key in &self.keys {
            match Checkpoint::verify(text, key) {
                Ok(checkpoint) => verified = Some(checkpoint),
                Err(error) => why = error.to_string(),
            }
        }
        let checkpoint = verified.ok_or(ChainFault::Unsigned { index, why })?;
        let (signed, have) = (checkpoint.size, self.tree.len());
        if signed < before {
            return Err(ChainFault::Shrunk {
                index,
                found: signed,
                before,
            });
        }
        match self.tree.root_at(signed) {
            None => Err(ChainFault::Missing {
                index,
                signed,
                have,
            }),
            Some(root) if root != checkpoint.root => Err(ChainFault::RootDiffers {
                index,
                size: signed,
            }),
            Some(_) => Ok(checkpoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyName, Log, MemoryStorage, SigningKey};
    use rand::{SeedableRng as _, rngs::StdRng};

    fn key(seed: u64) -> SigningKey {
        let name = KeyName::new("h1.agents.test").expect("valid");
        SigningKey::generate(name, &mut StdRng::seed_from_u64(seed))
    }

    fn host() -> HostId {
        HostId::new("h1").expect("valid")
    }

    fn of_host(seq: u64, text: &str) -> Entry {
        let body = Body::Alarm {
            subject: "x".into(),
            text: text.into(),
        };
        Entry::new(Source::Host(host()), seq, 0, body)
    }

    fn of_manager(body: Body) -> Entry {
        Entry::new(Source::Manager, 0, 0, body)
    }

    fn enrolled() -> Entry {
        let key = key(1).verify_key();
        of_manager(Body::KeyEnrolled {
            role: KeyRole::Agent,
            for_host: Some(host()),
            key,
        })
    }

    fn anchored(entries: &[Entry], seed: u64) -> Entry {
        let mut log =
            Log::open(MemoryStorage::default(), key(seed).verify_key(), None).expect("new");
        for entry in entries {
            log.append(&entry.to_bytes().expect("fits"))
                .expect("appends");
        }
        let checkpoint = log.checkpoint(&key(seed)).expect("signs");
        of_manager(Body::CheckpointAnchored {
            of: host(),
            checkpoint,
        })
    }

    fn check(entries: &[Entry], expected: &[&str]) {
        let chains = host_chains(entries).expect("short entries");
        let found: Vec<_> = chains[0].faults.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} lacks {expected}");
        }
    }

    #[test]
    fn a_host_that_contradicts_itself_is_found() {
        let (a, b, c) = (of_host(0, "a"), of_host(1, "b"), of_host(2, "c"));
        let both = [a.clone(), b.clone()];
        let (one, two) = (anchored(&both[..1], 1), anchored(&both, 1));
        check(
            &[enrolled(), a.clone(), one.clone(), b.clone(), two.clone()],
            &[],
        );
        check(
            &[enrolled(), a.clone(), c, two.clone()],
            &["number 2; expected 1", "another root"],
        );
        check(
            &[enrolled(), a.clone(), two.clone()],
            &["covers 2 entries; 1 are here"],
        );
        check(
            &[enrolled(), a.clone(), of_host(1, "B"), two.clone()],
            &["another root"],
        );
        check(
            &[enrolled(), a.clone(), b.clone(), two.clone(), one],
            &["covers 1 entries; 2 were"],
        );
        check(&[a.clone(), b.clone(), two], &["no key of this host"]);
        check(
            &[enrolled(), a, b, anchored(&both, 2)],
            &["does not verify"],
        );
    }
}
