//! `lictor agent run` and `lictor agent enroll`.

use crate::state::{self, StateDir};
use crate::{AgentError, Config, Manager, run};
use clap::{Parser, Subcommand};
use lictor_evidence::{KeyName, SigningKey};
use lictor_wire::api::EnrollRequest;
use std::path::PathBuf;

/// The agent of this host.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Run until the process is ended; what is enforced stays.
    Run {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Exchange a one-time token for a certificate, and pin whom this host believes.
    Enroll {
        /// The configuration file; it names the manager and the state directory.
        #[arg(long)]
        config: PathBuf,
        /// The certificate of the manager's authority, brought here by hand.
        #[arg(long)]
        authority: PathBuf,
        /// The one-time token.
        #[arg(long)]
        token: String,
    },
}

/// Does what the arguments say.
///
/// # Errors
/// [`AgentError`].
pub fn dispatch(args: Args) -> Result<(), AgentError> {
    match args.action {
        Action::Run { config } => run(Config::read(&config)?),
        Action::Enroll {
            config,
            authority,
            token,
        } => {
            let config = Config::read(&config)?;
            let authority =
                std::fs::read(&authority).map_err(|error| AgentError::io(&authority, &error))?;
            enroll(&config, &authority, token)
        }
    }
}

/// The evidence key is made here and never leaves; the manager learns its public half.
fn enroll(config: &Config, authority: &[u8], token: String) -> Result<(), AgentError> {
    let state = StateDir::new(&config.state_dir);
    let url = config.manager.as_deref().ok_or_else(|| {
        AgentError::Refused(
            "the configuration names no manager; add `manager = \"https://...\"`".into(),
        )
    })?;
    let key = match state.key() {
        Ok(key) => key,
        Err(AgentError::NotEnrolled { .. }) => make_key(config, &state)?,
        Err(error) => return Err(error),
    };
    let failed =
        |error: rcgen::Error| AgentError::Refused(format!("no certificate request: {error}"));
    let pair = rcgen::KeyPair::generate().map_err(failed)?;
    let params = rcgen::CertificateParams::default();
    let request_pem = params
        .serialize_request(&pair)
        .and_then(|request| request.pem())
        .map_err(failed)?;
    let request = EnrollRequest {
        token,
        request_pem,
        agent_key: Some(key.verify_key()),
    };
    let enrolled = Manager::enroll(url, authority, &request)?;
    state.write(state::CERTIFICATE_KEY, pair.serialize_pem().as_bytes())?;
    state.write(state::CERTIFICATE, enrolled.certificate_pem.as_bytes())?;
    state.write(state::AUTHORITY, authority)?;
    // Last, because it is what says that this host is enrolled.
    state.write_json(state::TRUST, &enrolled.trust)
}

fn make_key(config: &Config, state: &StateDir) -> Result<SigningKey, AgentError> {
    let name = KeyName::new(format!("agent-{}", config.host))?;
    let key = SigningKey::generate(name, &mut rand::rngs::OsRng);
    state.write(state::KEY, key.to_private_text().as_bytes())?;
    Ok(key)
}
