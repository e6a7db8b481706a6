//! Intents: statements about the whole policy. They are parsed, checked for names and kept with the
//! compiled policy; `lictor-analysis` proves them over an estate.

use crate::{ControlName, Selector, Service};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A named statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its name.
    pub name: String,
    /// What it says.
    pub claim: Claim,
    /// Whether it speaks of every host that each guest may run on, and not only of where they are.
    pub any_host: bool,
    /// With this many hosts failed.
    pub failures: u32,
    /// The file in which it stands, if the policy has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line on which it stands, from 1.
    pub line: usize,
}

/// What an intent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// No chain of allowed sessions leads from one to the other.
    NeverPath {
        /// Where it begins.
        from: Selector,
        /// Where it ends.
        to: Selector,
        /// Only sessions of this service count; all do if there is none.
        service: Option<Service>,
        /// Only chains up to this length count.
        hops: Option<u32>,
        /// Chains that do not count.
        except: Vec<Exception>,
    },
    /// A session is allowed from each to each.
    AlwaysPath {
        /// Where it begins.
        from: Selector,
        /// Where it ends.
        to: Selector,
        /// Of this service.
        service: Service,
    },
    /// Nobody else reaches it.
    Only {
        /// Who may.
        from: Selector,
        /// What is reached.
        to: Selector,
        /// Over this service.
        service: Service,
    },
    /// The hosts of these guests have the controls.
    Controls {
        /// The guests.
        guests: Selector,
        /// The controls.
        controls: Vec<ControlName>,
    },
    /// No host runs guests of both kinds.
    Apart {
        /// One kind.
        one: Selector,
        /// The other kind.
        other: Selector,
        /// The reading of the framework's text.
        interpretation: Interpretation,
    },
}

/// A chain that an intent tolerates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Whether this is a stop on the way (`via`) or the end of the chain (`to`).
    pub via: bool,
    /// The stop or end.
    pub ends: Selector,
    /// Over this service.
    pub service: Option<Service>,
}

/// How strictly "one function per host" is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpretation {
    /// One primary function per host.
    Strict,
    /// One zone per host.
    ZoneBased,
    /// The hypervisor's isolation is enough.
    Hypervisor,
}

impl Interpretation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Strict, Self::ZoneBased, Self::Hypervisor];

    /// The name as the policy text writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::ZoneBased => "zone-based",
            Self::Hypervisor => "hypervisor",
        }
    }
}

fn join(controls: &[ControlName]) -> String {
    controls
        .iter()
        .map(ControlName::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.via { "via" } else { "to" };
        write!(f, "except {word} {}", self.ends)?;
        self.service
            .iter()
            .try_for_each(|service| write!(f, " service {service}"))
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverPath {
                from,
                to,
                service,
                hops,
                except,
            } => {
                write!(f, "never path from {from} to {to}")?;
                service
                    .iter()
                    .try_for_each(|service| write!(f, " service {service}"))?;
                hops.iter()
                    .try_for_each(|hops| write!(f, " within {hops} hops"))?;
                except.iter().try_for_each(|except| write!(f, " {except}"))
            }
            Self::AlwaysPath { from, to, service } => {
                write!(f, "always path from {from} to {to} service {service}")
            }
            Self::Only { from, to, service } => {
                write!(f, "only {from} reaches {to} service {service}")
            }
            Self::Controls { guests, controls } => {
                write!(f, "{guests} requires controls {}", join(controls))
            }
            Self::Apart {
                one,
                other,
                interpretation,
            } => {
                let name = interpretation.name();
                write!(
                    f,
                    "host never runs ({one} with {other}) interpretation {name}"
                )
            }
        }
    }
}

impl Claim {
    /// Every selector that it names.
    #[must_use]
    pub fn selectors(&self) -> Vec<&Selector> {
        match self {
            Self::NeverPath {
                from, to, except, ..
            } => {
                let except = except.iter().map(|one| &one.ends);
                [from, to].into_iter().chain(except).collect()
            }
            Self::AlwaysPath { from, to, .. } | Self::Only { from, to, .. } => vec![from, to],
            Self::Controls { guests, .. } => vec![guests],
            Self::Apart { one, other, .. } => vec![one, other],
        }
    }
}

impl Intent {
    /// The claim and over what it is quantified, in the language's own words.
    #[must_use]
    pub fn statement(&self) -> String {
        let mut text = self.claim.to_string();
        if self.any_host {
            text.push_str(" on any-host");
        }
        if self.failures > 0 {
            text.push_str(&format!(" under failures {}", self.failures));
        }
        text
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "assert {} : {}", self.name, self.statement())
    }
}
