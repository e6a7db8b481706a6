//! A manager's directory: how it is made, opened and served.

use crate::app::{App, Clock, Parts, issue_token};
use crate::authority::Authority;
use crate::error::ManagerError;
use crate::{files, http};
use lictor_evidence::{KeyName, SigningKey};
use lictor_store::{Options, Store};
use lictor_types::{DeploymentId, HostId};
use lictor_wire::api::{Role, Token, TokenRequest};
use lictor_wire::{Trust, VerifyKey, Witnesses};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

const TRUST_FILE: &str = "trust.json";
const SETTINGS_FILE: &str = "manager.json";
const LOG_KEY_FILE: &str = "log.key";
const STORE_FILE: &str = "store.db";
/// Minutes that the first token lives: enough to walk to the admin's desk.
const FIRST_TOKEN_MINUTES: u32 = 60;

/// What a new manager is told.
#[derive(Debug, Clone)]
pub struct Init {
    /// The installation.
    pub deployment: DeploymentId,
    /// Who may write policy.
    pub authors: Vec<VerifyKey>,
    /// Who may approve it.
    pub approvers: Vec<VerifyKey>,
    /// How many approvers must have signed.
    pub approvals: u32,
    /// Who says which release is the newest; nobody is asked if there are none.
    pub witnesses: Vec<VerifyKey>,
    /// How many of them must say so.
    pub witnesses_required: u32,
    /// DNS names and addresses under which the manager is called.
    pub names: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    names: Vec<String>,
}

/// Makes a manager's directory and returns the first platform admin's token.
///
/// # Errors
/// [`ManagerError`] if an argument cannot be used or the directory already holds a manager.
pub fn init(dir: &Path, init: Init, clock: &Clock) -> Result<(Trust, Token), ManagerError> {
    check(&init)?;
    files::create_dir(dir)?;
    let _lock = files::lock(dir)?;
    let name = KeyName::new(format!("{}/manager", init.deployment))
        .map_err(|error| ManagerError::Argument(error.to_string()))?;
    let key = SigningKey::generate(name, &mut rand::rngs::OsRng);
    let trust = Trust {
        deployment: init.deployment,
        authors: init.authors,
        approvers: init.approvers,
        approvals_required: init.approvals,
        manager: key.verify_key(),
        freshness: witnesses(init.witnesses, init.witnesses_required),
    };
    files::write_secret(&dir.join(LOG_KEY_FILE), key.to_private_text().as_bytes())?;
    Authority::create(dir, trust.deployment.as_str(), clock())?;
    files::write_new(
        &dir.join(SETTINGS_FILE),
        &json(&Settings { names: init.names }),
    )?;
    files::write_new(&dir.join(TRUST_FILE), &json(&trust))?;
    let request = TokenRequest {
        role: Role::PlatformAdmin,
        name: "admin".into(),
        minutes: FIRST_TOKEN_MINUTES,
    };
    let token = token(dir, &request, clock)?;
    Ok((trust, token))
}

fn check(init: &Init) -> Result<(), ManagerError> {
    let refuse = |what: String| Err(ManagerError::Argument(what));
    if init.authors.is_empty() {
        return refuse("--author: expected at least one key that may sign releases".into());
    }
    if init.approvals == 0 {
        return refuse("--approvals: expected at least 1, four eyes need a second person".into());
    }
    // Whoever is the author of a release is not counted as its approver.
    for author in &init.authors {
        let others = init.approvers.iter().filter(|key| *key != author).count();
        if others < init.approvals as usize {
            return refuse(format!(
                "--approvals {}: besides the author {} there are {others} approvers",
                init.approvals,
                author.name()
            ));
        }
    }
    let witnesses = init.witnesses.len();
    if !(1..=witnesses.max(1)).contains(&(init.witnesses_required as usize)) {
        return refuse(format!(
            "--witnesses {}: expected 1 to {}, as many as --witness names",
            init.witnesses_required,
            witnesses.max(1)
        ));
    }
    if init.names.is_empty() {
        return refuse("--name: expected a DNS name or address that agents call".into());
    }
    Ok(())
}

fn witnesses(keys: Vec<VerifyKey>, required: u32) -> Option<Witnesses> {
    (!keys.is_empty()).then_some(Witnesses { keys, required })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("trust and settings have only string keys")
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ManagerError> {
    serde_json::from_str(&files::read(path)?).map_err(|error| ManagerError::Content {
        path: path.into(),
        detail: error.to_string(),
    })
}

/// Makes a one-time token directly in the store: how one is made before anybody can call.
///
/// # Errors
/// [`ManagerError`] if the request cannot be met or the store not be written.
pub fn token(dir: &Path, request: &TokenRequest, clock: &Clock) -> Result<Token, ManagerError> {
    Ok(issue_token(&mut open_store(dir)?, request, clock)?)
}

/// Forgets the key of a host's agent and revokes its certificates, so that another key may enrol.
/// Returns how many certificates were revoked.
///
/// # Errors
/// [`ManagerError`] if the host has no agent or the store cannot be written.
pub fn remove_agent(dir: &Path, host: &HostId, clock: &Clock) -> Result<usize, ManagerError> {
    let now_ms = clock();
    open_store(dir)?.write(|tx| {
        if tx.host(host)?.and_then(|row| row.key).is_none() {
            let what = format!("host {host} has no enrolled agent");
            return Err(ManagerError::Argument(what));
        }
        tx.set_host_key(host, None)?;
        Ok(tx.revoke_certificates(Role::Agent.name(), host.as_str(), now_ms)?)
    })
}

/// The trust file must be there: `init` writes it last but the store.
fn open_store(dir: &Path) -> Result<Store, ManagerError> {
    files::read(&dir.join(TRUST_FILE))?;
    Ok(Store::open(&dir.join(STORE_FILE), Options::default())?)
}

/// A manager that is ready to serve.
pub struct Manager {
    app: Arc<App>,
    tls: tokio_rustls::TlsAcceptor,
    _lock: File,
}

impl Manager {
    /// Opens a directory that [`init`] made.
    ///
    /// # Errors
    /// [`ManagerError`] if a file is missing, the log was rolled back, or another manager runs.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, ManagerError> {
        let lock = files::lock(dir)?;
        let trust: Trust = read_json(&dir.join(TRUST_FILE))?;
        let settings: Settings = read_json(&dir.join(SETTINGS_FILE))?;
        let authority = Authority::load(dir)?;
        let key_path = dir.join(LOG_KEY_FILE);
        let key: SigningKey =
            files::read_secret(&key_path)?
                .parse()
                .map_err(|error| ManagerError::Content {
                    path: key_path.clone(),
                    detail: format!("{error}"),
                })?;
        if key.verify_key() != trust.manager {
            let detail = "the key is not the one that the trust file names".to_owned();
            return Err(ManagerError::Content {
                path: key_path,
                detail,
            });
        }
        let identity = authority.issue_server(&settings.names, clock())?;
        let tls = http::acceptor(&authority, identity)?;
        let store = open_store(dir)?;
        let app = App::open(Parts {
            store,
            key,
            authority,
            trust,
            clock,
        })?;
        Ok(Self {
            app: Arc::new(app),
            tls,
            _lock: lock,
        })
    }

    /// Serves until `stop` turns true, then lets open calls end.
    pub async fn serve(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        http::serve(listener, self.tls, http::router(&self.app), stop).await;
    }
}
