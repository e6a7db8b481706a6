//! `lictor policy freshness`: the statement of which release is the newest, as witnesses sign it.

use crate::caller::Caller;
use crate::output::{Answer, Cell, Page, Tone};
use crate::release::Draft;
use crate::{CliError, files, key};
use clap::{Args, Subcommand};
use lictor_wire::freshness::LIFE_MS_MAX;
use lictor_wire::{Envelope, Freshness, Trust};
use serde_json::json;
use std::path::{Path, PathBuf};

const HOUR_MS: u64 = 60 * 60 * 1_000;
/// Hours that a statement may hold.
const HOURS: std::ops::RangeInclusive<u64> = 1..=LIFE_MS_MAX / HOUR_MS;
/// Bytes of a file with a statement.
const STATEMENT_BYTES_MAX: usize = 64 << 10;

/// Say which release is the newest, apart from the manager.
#[derive(Debug, Clone, Args)]
pub(crate) struct FreshnessArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Write that a release is the newest, and sign it as a witness. Take the release from those
    /// who signed it, not from the manager.
    Write {
        /// The release.
        release: PathBuf,
        /// Hours that the statement holds.
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(HOURS))]
        hours: u64,
        /// The key file of a witness.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Where the statement goes; one that is there is replaced.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign a statement as another witness.
    Sign {
        /// The statement.
        file: PathBuf,
        /// The key file of a witness.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Hand a statement to the manager, from which agents fetch it.
    Publish {
        /// The statement.
        file: PathBuf,
    },
}

pub(crate) fn run(args: &FreshnessArgs, caller: &Caller, now_ms: u64) -> Result<Answer, CliError> {
    match &args.action {
        Action::Write {
            release,
            hours,
            key,
            out,
        } => {
            let draft = Draft::read(release)?;
            let trust = caller.trust()?;
            if let Some(trust) = &trust {
                lictor_wire::release::verify(&draft.envelope, trust, None)
                    .map_err(|error| CliError::file(release, error.to_string()))?;
            }
            let said = Freshness::of(&draft.release, now_ms, hours * HOUR_MS);
            let envelope = said.sign(&[&key::read(key)?]);
            files::replace(out, &files::json(&envelope))?;
            Ok(told(&said, &envelope, trust.as_ref()))
        }
        Action::Sign { file, key } => {
            let (said, mut envelope) = read(file)?;
            let signed = envelope.add_signature(&key::read(key)?);
            signed.map_err(CliError::key(file))?;
            files::replace(file, &files::json(&envelope))?;
            Ok(told(&said, &envelope, caller.trust()?.as_ref()))
        }
        Action::Publish { file } => {
            let (said, envelope) = read(file)?;
            let identity = caller.open()?;
            identity.client.publish_freshness(&envelope)?;
            Ok(told(&said, &envelope, Some(&identity.trust)))
        }
    }
}

fn read(file: &Path) -> Result<(Freshness, Envelope), CliError> {
    let bytes = files::read(file, STATEMENT_BYTES_MAX)?;
    let bad = |error: &dyn std::fmt::Display| CliError::file(file, error.to_string());
    let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|error| bad(&error))?;
    let said = Freshness::unverified(&envelope).map_err(|error| bad(&error))?;
    Ok((said, envelope))
}

/// What a statement says, and whether agents would believe it.
fn told(said: &Freshness, envelope: &Envelope, trust: Option<&Trust>) -> Answer {
    let signatures = envelope.signatures().iter();
    let signatures: Vec<_> = signatures.map(|one| one.keyid.as_str()).collect();
    let page = Page::default().fields([
        ("newest release", said.generation.into()),
        ("digest", said.digest.into()),
        ("good until", lictor_audit::utc(said.expires_ms).into()),
        ("signed by", signatures.join(", ").into()),
    ]);
    let standing = trust.map(|trust| Freshness::verify(envelope, trust));
    let page = match &standing {
        None => page,
        Some(Ok(_)) => page.line(Cell::toned(Tone::Good, "agents believe this statement")),
        Some(Err(error)) => page.line(Cell::toned(Tone::Doubt, error.to_string())),
    };
    let counts = standing.map(|standing| standing.is_ok());
    let value = json!({ "freshness": said, "signed_by": signatures, "counts": counts });
    Answer::new(page, &value)
}
