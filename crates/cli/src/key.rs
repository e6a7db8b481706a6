//! `lictor key`: signing keys of people.

use crate::output::{Answer, Page, Printing};
use crate::{CliError, files};
use clap::{Args, Subcommand};
use lictor_evidence::{KeyName, SigningKey};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Make and show signing keys.
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Make a key. It is written for its owner only, and never over another file.
    New {
        /// Whose key it is: no spaces and no '+'.
        #[arg(long)]
        name: KeyName,
        /// The key file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Show the public half of a key: what others verify signatures with.
    Show {
        /// The key file.
        file: PathBuf,
    },
}

pub(crate) fn run(args: &KeyArgs) -> Result<Answer, CliError> {
    match &args.action {
        Action::New { name, out } => {
            let key = SigningKey::generate(name.clone(), &mut rand::rngs::OsRng);
            files::write_secret(out, format!("{}\n", key.to_private_text()).as_bytes())?;
            Ok(show(&key))
        }
        Action::Show { file } => Ok(show(&read(file)?)),
    }
}

fn show(key: &SigningKey) -> Answer {
    let key = key.verify_key();
    let page = Page::default().fields([
        ("name", key.name().into()),
        ("key", (&key).into()),
        ("fingerprint", key.fingerprint().into()),
    ]);
    let value = json!({
        "name": key.name(), "key": key, "fingerprint": key.fingerprint(),
    });
    Answer::new(page, &value)
}

/// Reads a key file.
pub(crate) fn read(path: &Path) -> Result<SigningKey, CliError> {
    SigningKey::from_private_text(&files::read_secret(path)?).map_err(CliError::key(path))
}
