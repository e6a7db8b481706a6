//! What one host's kernel holds of a release and its bindings, in one canonical form. The same
//! bytes are hashed before a load and after a read-back: equal digests mean that what was approved
//! is what is enforced.

use crate::{
    ADDRESSES_PER_HOST_MAX, ATOMS_MAX, DECISIONS_PER_HOST_MAX, Direction, Epoch, Generation,
    IdentityId, Protocol, RuleId, Segment, SharedId, Verdict, VnicId,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{fmt, net::IpAddr, str::FromStr};

/// A run of ports that no rule tells apart. Zero means "no atom" and never matches a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AtomId(pub u16);

impl AtomId {
    /// No rule speaks of the port: no decision covers it, not even one of [`Self::ANY`].
    pub const NONE: Self = Self(0);
    /// In a decision: every atom that has no decision of its own. No run of ports has this number.
    pub const ANY: Self = Self(u16::MAX);
}

/// A SHA-256 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first twelve digits, for tables that people read.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..12].into()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("digest {text:?} is not 64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// Who has an address: the longest prefix in the segment wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressEntry {
    /// The L2 domain in which the prefix has this meaning.
    pub segment: Segment,
    /// One address of a guest (full length) or a set of addresses that the policy names.
    pub prefix: IpNet,
    /// The class that the policy sees.
    pub identity: IdentityId,
    /// The vnic that may use the address; `None` for addresses outside every guest.
    pub vnic: Option<VnicId>,
    /// The binding that says so.
    pub epoch: Epoch,
    /// What its vnic, or a group of them, may do with it.
    pub kind: AddressKind,
    /// Whether the guest is in observe mode: what the policy does not allow is reported and passes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub observe: bool,
}

/// What may be done with an address of a guest.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "kebab-case")]
pub enum AddressKind {
    /// One guest has it, or nobody that is known: see the row's vnic.
    #[default]
    Own,
    /// A prefix behind the guest: packets from and to it are the guest's, but it does not claim it
    /// on the link.
    Routed,
    /// Every vnic of a group may use and claim it, as VRRP routers do. The row has no vnic.
    Shared(SharedId),
}

/// A run of ports and its atom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AtomRange {
    /// The protocol class.
    pub protocol: Protocol,
    /// First port of the run.
    pub first: u16,
    /// Last port of the run, included.
    pub last: u16,
    /// The atom.
    pub atom: AtomId,
}

/// What rules in observe mode would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Would {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule; [`RuleId::DEFAULT`] if it would have been the default deny.
    pub rule: RuleId,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What happens between a local identity and a peer on one atom. The peer may be
/// [`IdentityId::ANY`] and the atom [`AtomId::ANY`]; [`HostTables::decide`] says which row holds
/// where several could. Absent means default deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Decision {
    /// The class of the guest on this host.
    pub local: IdentityId,
    /// The class of the other end.
    pub peer: IdentityId,
    /// Seen from the local guest.
    pub direction: Direction,
    /// The ports.
    pub atom: AtomId,
    /// What is done.
    pub verdict: Verdict,
    /// The rule that says so. [`RuleId::DEFAULT`] with a denial is the default deny, of which only
    /// rules in observe mode say something.
    pub rule: RuleId,
    /// Whether new sessions and denials are reported as events.
    pub log: bool,
    /// New sessions that the rule allows one vnic in one second; 0: as many as come.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limit: u32,
    /// Events that the rule reports of one vnic in one second; 0: as many as the vnic may.
    #[serde(default, skip_serializing_if = "is_default")]
    pub log_limit: u16,
    /// What rules in observe mode would have done, if one of them would have decided.
    #[serde(default, skip_serializing_if = "is_default")]
    pub would: Option<Would>,
}

impl Decision {
    /// What it is found by.
    #[must_use]
    pub const fn key(&self) -> (IdentityId, IdentityId, Direction, AtomId) {
        (self.local, self.peer, self.direction, self.atom)
    }

    /// The peers and atoms of the rows that may answer a question, the most particular one first: a
    /// row about the peer comes before one about everybody. None answers for a port without an
    /// atom.
    pub fn keys(peer: IdentityId, atom: AtomId) -> impl Iterator<Item = (IdentityId, AtomId)> {
        let any = (IdentityId::ANY, AtomId::ANY);
        let keys = [(peer, atom), (peer, any.1), (any.0, atom), any];
        keys.into_iter().filter(move |_| atom != AtomId::NONE)
    }
}

/// Everything the kernel program of one host decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTables {
    /// The release.
    pub generation: Generation,
    /// The newest binding included.
    pub epoch: Epoch,
    /// Who has which address.
    pub addresses: Vec<AddressEntry>,
    /// Which ports are alike.
    pub atoms: Vec<AtomRange>,
    /// What is allowed.
    pub decisions: Vec<Decision>,
}

/// Why tables cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// More rows than the kernel's table has room for.
    #[error("{table} has {found} rows; at most {max} fit on one host; nothing was loaded")]
    TooMany {
        /// Which table.
        table: &'static str,
        /// Rows wanted.
        found: usize,
        /// Rows that fit.
        max: usize,
    },
    /// Two rows claim the same key with different meaning.
    #[error("{table} has two different rows for {key}; nothing was loaded")]
    Conflict {
        /// Which table.
        table: &'static str,
        /// The key, in words.
        key: String,
    },
}

impl HostTables {
    /// Tables that allow nothing: what a host has before its first release.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            generation: Generation(0),
            epoch: Epoch(0),
            addresses: Vec::new(),
            atoms: Vec::new(),
            decisions: Vec::new(),
        }
    }

    /// Sorts every table and drops exact repetitions, so that equal meaning has equal bytes.
    ///
    /// # Errors
    /// [`TableError`] if a table is too large or contradicts itself.
    pub fn canonical(mut self) -> Result<Self, TableError> {
        self.addresses.sort_unstable();
        self.addresses.dedup();
        self.atoms.sort_unstable();
        self.atoms.dedup();
        self.decisions.sort_unstable();
        self.decisions.dedup();
        let fits = |table, found, max: u32| {
            let max = max as usize;
            if found > max {
                Err(TableError::TooMany { table, found, max })
            } else {
                Ok(())
            }
        };
        fits(
            "the address table",
            self.addresses.len(),
            ADDRESSES_PER_HOST_MAX,
        )?;
        fits("the atom table", self.atoms.len(), ATOMS_MAX)?;
        fits(
            "the decision table",
            self.decisions.len(),
            DECISIONS_PER_HOST_MAX,
        )?;
        self.check_conflicts()?;
        Ok(self)
    }

    fn check_conflicts(&self) -> Result<(), TableError> {
        for pair in self.addresses.windows(2) {
            if (pair[0].segment, pair[0].prefix) == (pair[1].segment, pair[1].prefix) {
                let key = format!("{} in segment {}", pair[0].prefix, pair[0].segment);
                return Err(TableError::Conflict {
                    table: "the address table",
                    key,
                });
            }
        }
        for pair in self.atoms.windows(2) {
            if pair[0].protocol == pair[1].protocol && pair[1].first <= pair[0].last {
                let key = format!("{} port {}", pair[1].protocol, pair[1].first);
                return Err(TableError::Conflict {
                    table: "the atom table",
                    key,
                });
            }
        }
        for pair in self.decisions.windows(2) {
            if pair[0].key() == pair[1].key() {
                let d = pair[0];
                let key = format!(
                    "{} to {} {} atom {}",
                    d.local, d.peer, d.direction, d.atom.0
                );
                return Err(TableError::Conflict {
                    table: "the decision table",
                    key,
                });
            }
        }
        Ok(())
    }

    /// The row that answers a question, if there is one: the first that exists of
    /// [`Decision::keys`]. Call it on canonical tables.
    #[must_use]
    pub fn decide(
        &self,
        (local, peer, direction): (IdentityId, IdentityId, Direction),
        atom: AtomId,
    ) -> Option<&Decision> {
        Decision::keys(peer, atom).find_map(|(peer, atom)| {
            let key = (local, peer, direction, atom);
            let found = self.decisions.binary_search_by_key(&key, Decision::key);
            found.ok().map(|index| &self.decisions[index])
        })
    }

    /// The digest over the canonical bytes. Call it on canonical tables.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(b"lictor host tables v2\n");
        hash.update(self.generation.0.to_le_bytes());
        hash.update(self.epoch.0.to_le_bytes());
        hash.update((self.addresses.len() as u64).to_le_bytes());
        for entry in &self.addresses {
            hash.update(entry.segment.0.to_le_bytes());
            hash.update(mapped(entry.prefix.addr()));
            hash.update([
                entry.prefix.prefix_len(),
                u8::from(entry.prefix.addr().is_ipv4()),
            ]);
            hash.update(entry.identity.0.to_le_bytes());
            hash.update(entry.vnic.map_or(0, |vnic| vnic.0).to_le_bytes());
            hash.update(entry.epoch.0.to_le_bytes());
            hash.update([entry.observe.into()]);
            let (kind, group) = match entry.kind {
                AddressKind::Own => (0, 0),
                AddressKind::Routed => (1, 0),
                AddressKind::Shared(group) => (2, group.0),
            };
            hash.update([kind]);
            hash.update(u32::to_le_bytes(group));
        }
        hash.update((self.atoms.len() as u64).to_le_bytes());
        for range in &self.atoms {
            hash.update([range.protocol as u8]);
            hash.update(range.first.to_le_bytes());
            hash.update(range.last.to_le_bytes());
            hash.update(range.atom.0.to_le_bytes());
        }
        hash.update((self.decisions.len() as u64).to_le_bytes());
        for decision in &self.decisions {
            hash.update(decision.local.0.to_le_bytes());
            hash.update(decision.peer.0.to_le_bytes());
            hash.update([
                decision.direction as u8,
                decision.verdict as u8,
                decision.log.into(),
            ]);
            hash.update(decision.atom.0.to_le_bytes());
            hash.update(decision.rule.0.to_le_bytes());
            hash.update(decision.limit.to_le_bytes());
            hash.update(decision.log_limit.to_le_bytes());
            let would = decision.would;
            hash.update([
                would.is_some().into(),
                would.map_or(0, |would| would.verdict as u8),
            ]);
            hash.update(would.map_or(0, |would| would.rule.0).to_le_bytes());
        }
        Digest(hash.finalize().into())
    }
}

/// The 16 octets under which both families share one table (RFC 4291, section 2.5.5.2).
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(rule: u32) -> Decision {
        Decision {
            local: IdentityId(1),
            peer: IdentityId(2),
            direction: Direction::Ingress,
            atom: AtomId(1),
            verdict: Verdict::Allow,
            rule: RuleId(rule),
            log: false,
            limit: 0,
            log_limit: 0,
            would: None,
        }
    }

    #[test]
    fn every_column_of_a_decision_and_an_address_is_in_the_digest() {
        let tables = |decision, observe| {
            let mut tables = HostTables::empty();
            tables.decisions = vec![decision];
            tables.addresses = vec![AddressEntry {
                segment: Segment(1),
                prefix: "10.0.0.1/32".parse().expect("a prefix"),
                identity: IdentityId(1),
                vnic: None,
                epoch: Epoch(1),
                observe,
                kind: AddressKind::Own,
            }];
            tables.canonical().expect("fits").digest()
        };
        let base = decision(7);
        let would = |verdict, rule| Decision {
            would: Some(Would {
                verdict,
                rule: RuleId(rule),
            }),
            ..base
        };
        let digests = [
            tables(base, false),
            tables(base, true),
            tables(Decision { log: true, ..base }, false),
            tables(Decision { limit: 1, ..base }, false),
            tables(
                Decision {
                    log_limit: 1,
                    ..base
                },
                false,
            ),
            tables(
                Decision {
                    verdict: Verdict::Reject,
                    ..base
                },
                false,
            ),
            tables(would(Verdict::Deny, 0), false),
            tables(would(Verdict::Allow, 0), false),
            tables(would(Verdict::Deny, 1), false),
        ];
        let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
    }

    #[test]
    fn the_most_particular_row_answers_and_a_port_without_an_atom_has_none() {
        let row = |peer, atom, rule| Decision {
            peer,
            atom,
            ..decision(rule)
        };
        let (peer, atom) = (IdentityId(2), AtomId(1));
        let (anybody, any) = (IdentityId::ANY, AtomId::ANY);
        let rows = [
            row(peer, atom, 1),
            row(peer, any, 2),
            row(anybody, atom, 3),
            row(anybody, any, 4),
        ];
        let check = |rows: &[Decision], (peer, atom), expected: Option<u32>| {
            let mut tables = HostTables::empty();
            tables.decisions = rows.to_vec();
            let tables = tables.canonical().expect("fits");
            let found = tables.decide((IdentityId(1), peer, Direction::Ingress), atom);
            assert_eq!(found.map(|row| row.rule.0), expected, "{peer} {atom:?}");
            let other = tables.decide((IdentityId(1), peer, Direction::Egress), atom);
            assert_eq!(other, None, "another direction");
        };
        for first in 0..rows.len() {
            let expected = rows.get(first).map(|row| row.rule.0);
            check(&rows[first..], (peer, atom), expected);
        }
        check(&[], (peer, atom), None);
        check(&rows, (peer, AtomId(2)), Some(2));
        check(&rows, (IdentityId::WORLD, atom), Some(3));
        check(&rows, (IdentityId(3), AtomId(2)), Some(4));
        check(&rows, (peer, AtomId::NONE), None);
    }

    #[test]
    fn canonical_form_ignores_order_and_repetition() {
        let mut one = HostTables::empty();
        one.decisions = vec![
            Decision {
                peer: IdentityId(3),
                ..decision(7)
            },
            decision(7),
        ];
        let mut two = HostTables::empty();
        two.decisions = vec![
            decision(7),
            Decision {
                peer: IdentityId(3),
                ..decision(7)
            },
            decision(7),
        ];
        let (one, two) = (
            one.canonical().expect("fits"),
            two.canonical().expect("fits"),
        );
        assert_eq!(one.digest(), two.digest());
    }

    #[test]
    fn contradicting_rows_are_refused() {
        let mut tables = HostTables::empty();
        tables.decisions = vec![decision(7), decision(8)];
        assert!(matches!(
            tables.canonical(),
            Err(TableError::Conflict { .. })
        ));
    }

    #[test]
    fn one_row_too_many_is_refused() {
        let mut tables = HostTables::empty();
        tables.decisions = (0..=DECISIONS_PER_HOST_MAX)
            .map(|peer| Decision {
                peer: IdentityId(peer),
                ..decision(7)
            })
            .collect();
        assert!(matches!(
            tables.clone().canonical(),
            Err(TableError::TooMany { .. })
        ));
        tables.decisions.pop();
        assert!(tables.canonical().is_ok());
    }
}
