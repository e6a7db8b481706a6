//! The gate of releases: every intent of a policy was proved over an estate, or an approver has
//! signed an exception that names it and had not ended on the release's day.
//!
//! That it was proved is the signed word of author and approvers; nobody proves it again here.

use crate::{Envelope, Release, VerifyKey};
use lictor_policy::Date;
use lictor_types::{DeploymentId, Digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The payload type under which an exception is signed.
pub const EXCEPTION_TYPE: &str = "application/vnd.lictor.intent-exception.v1+json";
/// Exceptions that one release may carry.
pub const EXCEPTIONS_MAX: usize = 1_024;

/// What was proved when a release was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proved {
    /// The digest of the estate over which it was proved.
    pub estate: Digest,
    /// The intents that held.
    pub held: Vec<String>,
    /// Exceptions for the others, each signed by an approver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excepted: Vec<Envelope>,
}

/// What an approver signs for one intent. Whoever changes what the intent says needs another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The installation.
    pub deployment: DeploymentId,
    /// The policy.
    pub policy: String,
    /// The intent that need not hold.
    pub intent: String,
    /// What it said.
    pub statement: String,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub justification: String,
    /// The last day on which it counts.
    pub expires: Date,
}

/// Why an exception does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExceptionRefused {
    /// No approver has signed it.
    #[error(
        "no approver of the trust file has signed it: {0}; have one run `lictor policy except`"
    )]
    NotSigned(String),
    /// It is no exception.
    #[error("it is no exception: {0}; expected what `lictor policy except` writes")]
    Malformed(String),
    /// It is about something else.
    #[error("it is for policy {policy} of {deployment}; expected one for {expected}")]
    Elsewhere {
        /// The policy that it names.
        policy: String,
        /// The installation that it names.
        deployment: DeploymentId,
        /// What it should name.
        expected: String,
    },
    /// Its last day is over.
    #[error("it expired after {expires}; have an approver sign another one, or mend the policy")]
    Expired {
        /// Its last day.
        expires: Date,
    },
}

/// For what an exception has to be.
#[derive(Debug, Clone, Copy)]
pub struct For<'a> {
    /// The installation.
    pub deployment: &'a DeploymentId,
    /// The policy.
    pub policy: &'a str,
    /// The day on which it has to count.
    pub day: Date,
}

impl Exception {
    /// Checks signature, installation, policy and day.
    ///
    /// # Errors
    /// [`ExceptionRefused`].
    pub fn verify(
        envelope: &Envelope,
        approvers: &[VerifyKey],
        wanted: For<'_>,
    ) -> Result<Self, ExceptionRefused> {
        let verified = envelope
            .verify(EXCEPTION_TYPE, approvers)
            .map_err(|error| ExceptionRefused::NotSigned(error.to_string()))?;
        let one: Self = serde_json::from_slice(&verified.payload)
            .map_err(|error| ExceptionRefused::Malformed(error.to_string()))?;
        if one.deployment != *wanted.deployment || one.policy != wanted.policy {
            return Err(ExceptionRefused::Elsewhere {
                expected: format!("{} of {}", wanted.policy, wanted.deployment),
                policy: one.policy,
                deployment: one.deployment,
            });
        }
        if wanted.day > one.expires {
            let expires = one.expires;
            return Err(ExceptionRefused::Expired { expires });
        }
        Ok(one)
    }
}

/// The intents of a release that nobody proved and no exception covers on a day, each with why.
#[must_use]
pub fn unproved(release: &Release, approvers: &[VerifyKey], day: Date) -> Vec<String> {
    let policy = &release.policy;
    let wanted = For {
        deployment: &release.deployment,
        policy: &policy.policy,
        day,
    };
    let held: BTreeSet<&str> = release
        .proved
        .iter()
        .flat_map(|proved| &proved.held)
        .map(String::as_str)
        .collect();
    let signed = release.proved.iter().flat_map(|proved| &proved.excepted);
    let mut refused = Vec::new();
    let mut excepted = BTreeSet::new();
    for envelope in signed.take(EXCEPTIONS_MAX) {
        match Exception::verify(envelope, approvers, wanted) {
            Ok(one) => {
                excepted.insert((one.intent, one.statement));
            }
            Err(error) => refused.push(error.to_string()),
        }
    }
    let open = policy.intents.iter().filter(|intent| {
        let key = (intent.name.clone(), intent.text.clone());
        !held.contains(intent.name.as_str()) && !excepted.contains(&key)
    });
    let mut open: Vec<String> = open.map(|intent| intent.name.clone()).collect();
    if !open.is_empty() {
        open.extend(
            refused
                .into_iter()
                .map(|why| format!("an exception: {why}")),
        );
    }
    open
}
