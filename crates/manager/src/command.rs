//! The `manager` command: what people type, and what they read.

use crate::app::Clock;
use crate::error::ManagerError;
use crate::manager::{Init, Manager, init, remove_agent, token};
use clap::{Parser, Subcommand, ValueEnum};
use lictor_types::{DeploymentId, HostId};
use lictor_wire::api::{Role, Token, TokenRequest};
use lictor_wire::{Trust, VerifyKey};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Make and run a manager.
#[derive(Debug, Clone, Parser)]
#[command(name = "manager")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Make a manager: its authority, its log's key, its trust file and the first admin's token.
    Init {
        /// The manager's directory.
        #[arg(long)]
        dir: PathBuf,
        /// The name of this installation.
        #[arg(long)]
        deployment: DeploymentId,
        /// The key of someone who writes policy.
        #[arg(long = "author", required = true, value_name = "KEY")]
        authors: Vec<VerifyKey>,
        /// The key of someone who approves policy.
        #[arg(long = "approver", required = true, value_name = "KEY")]
        approvers: Vec<VerifyKey>,
        /// How many approvers must have signed a release.
        #[arg(long, default_value_t = 1)]
        approvals: u32,
        /// The key of someone who says which release is the newest, apart from the manager; agents
        /// then take a release for stale once nobody has said so for the time that they state.
        #[arg(long = "witness", value_name = "KEY")]
        witnesses: Vec<VerifyKey>,
        /// How many witnesses must have signed a statement.
        #[arg(long = "witnesses", default_value_t = 1, value_name = "N")]
        witnesses_required: u32,
        /// A DNS name or address that agents call the manager by.
        #[arg(long = "name", default_values_t = ["localhost".to_owned(), "127.0.0.1".to_owned()])]
        names: Vec<String>,
    },
    /// Run a manager until SIGTERM or SIGINT.
    Run {
        /// The manager's directory.
        #[arg(long)]
        dir: PathBuf,
        /// Where it listens.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Make a one-time token in the store, also when nobody can call the manager yet.
    Token {
        /// The manager's directory.
        #[arg(long)]
        dir: PathBuf,
        /// What the holder will be: platform-admin, policy-author, agent, ...
        #[arg(long, value_parser = parse_role)]
        role: Role,
        /// The name in the certificate; for an agent the host's name.
        #[arg(long)]
        name: String,
        /// Minutes until it lapses.
        #[arg(long, default_value_t = 60)]
        minutes: u32,
    },
    /// Forget the key of a host's agent and revoke its certificates, so that another may enrol.
    RemoveAgent {
        /// The manager's directory.
        #[arg(long)]
        dir: PathBuf,
        /// The host.
        #[arg(long)]
        host: HostId,
    },
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| {
        let names: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn system_clock() -> Clock {
    Arc::new(|| {
        // A clock before 1970 gives 0: certificates made then are refused, as they should be.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// What `init` tells people.
fn made(dir: &Path, trust: &Trust, token: &Token) -> String {
    format!(
        "deployment  {}\nlog key     {}\ntrust file  {}\nauthority   {}\n\
         token       {}\nrole        platform-admin, name admin, for one hour, once",
        trust.deployment,
        trust.manager,
        dir.join("trust.json").display(),
        dir.join("authority.pem").display(),
        token.token
    )
}

/// Does what the arguments say and writes results to `out`.
///
/// # Errors
/// [`ManagerError`] with place, expectation and next step.
pub fn run(args: Args, out: &mut dyn Write) -> Result<(), ManagerError> {
    let clock = system_clock();
    let (text, value) = match args.action {
        Action::Init {
            dir,
            deployment,
            authors,
            approvers,
            approvals,
            witnesses,
            witnesses_required,
            names,
        } => {
            let parts = Init {
                deployment,
                authors,
                approvers,
                approvals,
                witnesses,
                witnesses_required,
                names,
            };
            let (trust, token) = init(&dir, parts, &clock)?;
            let value = serde_json::json!({ "trust": trust, "token": token.token });
            (made(&dir, &trust, &token), value)
        }
        Action::Token {
            dir,
            role,
            name,
            minutes,
        } => {
            let token = token(
                &dir,
                &TokenRequest {
                    role,
                    name,
                    minutes,
                },
                &clock,
            )?;
            (
                token.token.clone(),
                serde_json::json!({ "token": token.token }),
            )
        }
        Action::RemoveAgent { dir, host } => {
            let revoked = remove_agent(&dir, &host, &clock)?;
            let text = format!("forgot the key of {host}, revoked {revoked} certificate(s)");
            (
                text,
                serde_json::json!({ "host": host, "revoked": revoked }),
            )
        }
        Action::Run { dir, listen } => return serve(&dir, listen, clock, out),
    };
    match args.output {
        Output::Table => print(out, &text),
        Output::Json => print(out, &value.to_string()),
    }
}

fn print(out: &mut dyn Write, text: &str) -> Result<(), ManagerError> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|source| ManagerError::File {
            action: "writing",
            path: "the standard output".into(),
            source,
        }),
    }
}

fn serve(
    dir: &std::path::Path,
    listen: SocketAddr,
    clock: Clock,
    out: &mut dyn Write,
) -> Result<(), ManagerError> {
    let failed = |source| ManagerError::Listen {
        address: listen,
        source,
    };
    let runtime = tokio::runtime::Runtime::new().map_err(failed)?;
    let manager = Manager::open(dir, clock)?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        // With port 0 only this line tells where it listens.
        let address = listener.local_addr().map_err(failed)?;
        print(out, &format!("listening on {address}"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(manager.serve(listener, stopped));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: open calls end, new ones are refused");
        stop.send_replace(true);
        serving
            .await
            .map_err(|error| ManagerError::Argument(format!("serving broke off: {error}")))
    })
}
