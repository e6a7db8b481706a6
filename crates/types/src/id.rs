//! Names and numbers that identify things. A newtype each, so that ids never mix.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name is empty or longer than its limit.
    #[error("{kind} {text:?} has {length} characters; expected 1 to {max}")]
    Length {
        /// What the text was meant to name.
        kind: &'static str,
        /// The text as given.
        text: String,
        /// Its length in characters.
        length: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The name has a character outside the allowed set.
    #[error(
        "{kind} {text:?} has {found:?} at character {position}; expected lower-case letters, \
         digits, '-' or '_', with a letter or digit first"
    )]
    Character {
        /// What the text was meant to name.
        kind: &'static str,
        /// The text as given.
        text: String,
        /// The offending character.
        found: char,
        /// Its position, from 1.
        position: usize,
    },
}

fn check_name(kind: &'static str, text: &str, max: usize) -> Result<(), IdError> {
    let length = text.chars().count();
    if length == 0 || length > max {
        return Err(IdError::Length {
            kind,
            text: text.into(),
            length,
            max,
        });
    }
    for (index, found) in text.chars().enumerate() {
        let plain = found.is_ascii_lowercase() || found.is_ascii_digit();
        if !(plain || (index > 0 && matches!(found, '-' | '_'))) {
            return Err(IdError::Character {
                kind,
                text: text.into(),
                found,
                position: index + 1,
            });
        }
    }
    Ok(())
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`IdError`] says which character or length is wrong.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check_name($kind, &text, $max)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

name_id!(
    /// A protected VM or container, by the name its owner gave it.
    GuestId, "guest name", 63
);
name_id!(
    /// A machine with a hypervisor.
    HostId, "host name", 63
);
name_id!(
    /// The one installation that releases, bindings and tickets are bound to, so that what was
    /// signed for one cannot be replayed in another.
    DeploymentId, "deployment id", 63
);
name_id!(
    /// The name of a vnic's device on its host (`IFNAMSIZ` leaves 15 characters).
    VnicName, "vnic name", 15
);

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number_id!(
    /// A guest's interface, unique in its deployment and the same on every host. Zero is no vnic.
    VnicId, u32
);
number_id!(
    /// An L2 domain. Part of every lookup, because two tenants may use the same addresses.
    Segment, u32
);
number_id!(
    /// A class of guests or addresses that the policy cannot tell apart.
    /// Zero is [`IdentityId::WORLD`].
    IdentityId, u32
);
number_id!(
    /// A rule, by a number derived from its name, so that it survives reordering.
    /// Zero is [`RuleId::DEFAULT`].
    RuleId, u32
);
number_id!(
    /// The monotonic number of a release. Zero means that none is loaded.
    Generation, u64
);
number_id!(
    /// The monotonic number of a binding. A session remembers both ends' epochs, so that a changed
    /// label or a reused address re-evaluates it.
    Epoch, u64
);

impl IdentityId {
    /// Every address that no binding and no prefix of the policy names.
    pub const WORLD: Self = Self(0);
    /// As the peer of a decision: whoever has no decision of its own, the world included. No class
    /// has this number.
    pub const ANY: Self = Self(u32::MAX);
    /// Guests that are isolated for a time. No class has this number, and no decision lets them
    /// talk with anybody.
    pub const ISOLATED: Self = Self(u32::MAX - 1);
}

impl RuleId {
    /// No rule matched: the default deny.
    pub const DEFAULT: Self = Self(0);
}
