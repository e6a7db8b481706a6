//! Selectors: which guests and which outside addresses a rule speaks of.

use crate::{HOST_LABEL, Labels};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::IpAddr};

/// One end of a conversation. Guests are matched by their labels only, all other addresses by the
/// sets that contain them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// A guest with these labels.
    Guest(Labels),
    /// An address that no guest has.
    Address(IpAddr),
}

/// An expression over labels and sets, with every scope written out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selector {
    /// Every guest and every address.
    Any,
    /// Every guest.
    Guests,
    /// Every host, as an end of its own.
    Hosts,
    /// Every address that no guest has.
    Outside,
    /// Guests with this label.
    Label {
        /// The label.
        name: String,
        /// Its value.
        value: String,
    },
    /// Guests that have this label, whatever its value.
    Has(String),
    /// Outside addresses in this set.
    Set(String),
    /// A computed scope that is not written out yet: none is left in a policy that was read.
    Computed(String),
    /// What the inner one does not match, guests and addresses alike.
    Not(Box<Self>),
    /// What all match.
    All(Vec<Self>),
    /// What at least one matches.
    Either(Vec<Self>),
}

impl Selector {
    /// Whether an end matches, given the prefixes of every set. An address is in every set that has
    /// a prefix containing it.
    #[must_use]
    pub fn matches(&self, end: &End, sets: &BTreeMap<String, Vec<IpNet>>) -> bool {
        match end {
            End::Guest(labels) => self.holds(Some(labels), &|_| false),
            End::Address(address) => self.holds(None, &|name| {
                sets.get(name)
                    .is_some_and(|set| set.iter().any(|net| net.contains(address)))
            }),
        }
    }

    /// The truth for a guest with labels, or for an address about which only its sets are known.
    pub(crate) fn holds(&self, guest: Option<&Labels>, in_set: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::Guests => guest.is_some_and(|labels| !labels.contains_key(HOST_LABEL)),
            Self::Hosts => guest.is_some_and(|labels| labels.contains_key(HOST_LABEL)),
            Self::Outside => guest.is_none(),
            Self::Label { name, value } => {
                guest.is_some_and(|labels| labels.get(name) == Some(value))
            }
            Self::Has(name) => guest.is_some_and(|labels| labels.contains_key(name)),
            Self::Set(name) => guest.is_none() && in_set(name),
            Self::Computed(_) => false,
            Self::Not(inner) => !inner.holds(guest, in_set),
            Self::All(parts) => parts.iter().all(|part| part.holds(guest, in_set)),
            Self::Either(parts) => parts.iter().any(|part| part.holds(guest, in_set)),
        }
    }

    /// How many parts it has and how deep they nest.
    pub(crate) fn size(&self) -> (usize, usize) {
        let parts = match self {
            Self::Not(inner) => std::slice::from_ref(&**inner),
            Self::All(parts) | Self::Either(parts) => parts,
            _ => return (1, 1),
        };
        parts
            .iter()
            .map(Self::size)
            .fold((1, 1), |(count, depth), (parts, levels)| {
                (count + parts, depth.max(levels + 1))
            })
    }

    /// Calls `each` with every part that asks for a label or a set.
    pub(crate) fn visit<'a>(&'a self, each: &mut impl FnMut(&'a Self)) {
        match self {
            Self::Not(inner) => inner.visit(each),
            Self::All(parts) | Self::Either(parts) => {
                parts.iter().for_each(|part| part.visit(each));
            }
            Self::Any | Self::Outside => {}
            Self::Guests
            | Self::Hosts
            | Self::Label { .. }
            | Self::Has(_)
            | Self::Set(_)
            | Self::Computed(_) => {
                each(self);
            }
        }
    }

    const fn precedence(&self) -> u8 {
        match self {
            Self::Either(_) => 0,
            Self::All(_) => 1,
            _ => 2,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, outer: u8) -> fmt::Result {
        if self.precedence() < outer {
            f.write_str("(")?;
            self.write(f, 0)?;
            return f.write_str(")");
        }
        let list = |f: &mut fmt::Formatter<'_>, parts: &[Self], word: &str, inner| {
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    f.write_str(word)?;
                }
                part.write(f, inner)?;
            }
            Ok(())
        };
        match self {
            Self::Any => f.write_str("any"),
            Self::Guests => f.write_str("guests"),
            Self::Hosts => f.write_str("hosts"),
            Self::Has(name) => write!(f, "{name}:*"),
            Self::Outside => f.write_str("outside"),
            Self::Label { name, value } => write!(f, "{name}:{value}"),
            Self::Set(name) => write!(f, "set:{name}"),
            Self::Computed(name) => write!(f, "scope:{name}"),
            Self::Not(inner) => {
                f.write_str("not ")?;
                inner.write(f, 2)
            }
            Self::All(parts) => list(f, parts, " & ", 2),
            Self::Either(parts) => list(f, parts, " or ", 1),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}
