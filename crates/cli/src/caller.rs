//! Who calls which manager: the directory that `lictor enroll` writes.

use crate::output::{Answer, Cell, Page, Printing};
use crate::{CliError, files};
use clap::Args;
use lictor_client::{Client, Credentials};
use lictor_wire::Trust;
use lictor_wire::api::{EnrollRequest, Role, TokenRequest};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const CERTIFICATE: &str = "certificate.pem";
const CERTIFICATE_KEY: &str = "certificate.key";
const AUTHORITY: &str = "authority.pem";
const TRUST: &str = "trust.json";
/// Written last, because it is what says that the enrolment is complete.
const PROFILE: &str = "manager.json";

/// The argument of every command that calls a manager.
#[derive(Debug, Clone, Args)]
pub struct Caller {
    /// What `lictor enroll` wrote: certificate, key, the manager's authority and the trust file.
    #[arg(
        long = "manager-dir",
        value_name = "DIR",
        env = "LICTOR_DIR",
        global = true
    )]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    url: String,
    role: Role,
    name: String,
}

/// A person with a certificate, and whom that person believes.
pub(crate) struct Identity {
    pub(crate) client: Client,
    pub(crate) trust: Trust,
}

impl Caller {
    #[cfg(test)]
    pub(crate) const fn nobody() -> Self {
        Self { dir: None }
    }

    /// Reads the directory.
    pub(crate) fn open(&self) -> Result<Identity, CliError> {
        let dir = self.dir.as_deref().ok_or(CliError::NoManager)?;
        let profile: Profile = files::read_json(&dir.join(PROFILE), "what `lictor enroll` wrote")?;
        let key = files::read_secret(&dir.join(CERTIFICATE_KEY))?;
        let read = |name: &str| files::read(&dir.join(name), files::KEY_BYTES_MAX);
        let credentials = Credentials {
            certificate: &read(CERTIFICATE)?,
            key: key.as_bytes(),
            authority: &read(AUTHORITY)?,
        };
        Ok(Identity {
            client: Client::new(&profile.url, &credentials)?,
            trust: read_trust(dir)?,
        })
    }

    /// Whom to believe, if a directory is named.
    pub(crate) fn trust(&self) -> Result<Option<Trust>, CliError> {
        self.dir.as_deref().map(read_trust).transpose()
    }
}

fn read_trust(dir: &Path) -> Result<Trust, CliError> {
    files::read_json(
        &dir.join(TRUST),
        "a trust file as `lictor enroll` writes it",
    )
}

/// Exchange a one-time token for a certificate.
#[derive(Debug, Clone, Args)]
pub struct EnrollArgs {
    /// The manager's address, such as https://manager.example.com:8443.
    #[arg(long, value_name = "URL")]
    manager: String,
    /// The certificate of the manager's authority, brought here by hand.
    #[arg(long, value_name = "PEM")]
    authority: PathBuf,
    /// The one-time token.
    #[arg(long)]
    token: String,
    /// Where certificate, key and trust file go.
    #[arg(long)]
    dir: PathBuf,
    /// The signing key of an author, an approver or a scope owner: evidence then says whose it is.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Serialize)]
struct EnrolledAs<'a> {
    role: Role,
    name: &'a str,
    dir: &'a Path,
    trust: &'a Trust,
}

pub(crate) fn enroll(args: &EnrollArgs) -> Result<Answer, CliError> {
    let dir = &args.dir;
    let profile_file = dir.join(PROFILE);
    // Asked before the token is used, because it is good once.
    if profile_file.exists() {
        return Err(CliError::file(
            &profile_file,
            "somebody is enrolled here already; choose another --dir",
        ));
    }
    let authority = files::read(&args.authority, files::KEY_BYTES_MAX)?;
    let signing = args.key.as_deref().map(crate::key::read).transpose()?;
    let failed = |error: rcgen::Error| CliError::Certificate(error.to_string());
    let pair = rcgen::KeyPair::generate().map_err(failed)?;
    let request = rcgen::CertificateParams::default().serialize_request(&pair);
    let request = EnrollRequest {
        token: args.token.clone(),
        request_pem: request.and_then(|request| request.pem()).map_err(failed)?,
        agent_key: signing.map(|key| key.verify_key()),
    };
    files::secret_directory(dir)?;
    let enrolled = Client::enroll(&args.manager, &authority, &request)?;
    let (role, name) = subject(&enrolled.certificate_pem)?;
    let profile = Profile {
        url: args.manager.clone(),
        role,
        name: name.clone(),
    };
    // Whatever an enrolment that broke off left here belongs to no token any more.
    for name in [CERTIFICATE_KEY, CERTIFICATE, AUTHORITY, TRUST] {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CliError::io(&dir.join(name), &error));
            }
            _ => {}
        }
    }
    files::write_secret(&dir.join(CERTIFICATE_KEY), pair.serialize_pem().as_bytes())?;
    files::write_new(&dir.join(CERTIFICATE), enrolled.certificate_pem.as_bytes())?;
    files::write_new(&dir.join(AUTHORITY), &authority)?;
    files::write_new(&dir.join(TRUST), &files::json(&enrolled.trust))?;
    files::write_new(&profile_file, &files::json(&profile))?;
    let page = Page::default()
        .fields([
            ("role", role.name().into()),
            ("name", name.as_str().into()),
            ("directory", dir.display().into()),
        ])
        .line("Compare with what you were given by hand:");
    Ok(Answer::new(
        trust_page(page, &enrolled.trust),
        &EnrolledAs {
            role,
            name: &name,
            dir,
            trust: &enrolled.trust,
        },
    ))
}

fn trust_page(page: Page, trust: &Trust) -> Page {
    let keys = |what: &'static str, keys: &[lictor_wire::VerifyKey]| {
        let rows = keys.iter().map(|key| [what.into(), Cell::from(key)]);
        rows.collect::<Vec<_>>()
    };
    let rows = [
        keys("author", &trust.authors),
        keys("approver", &trust.approvers),
        keys("log", std::slice::from_ref(&trust.manager)),
    ];
    page.fields([
        ("deployment", trust.deployment.as_str().into()),
        ("approvals", trust.approvals_required.into()),
        ("log fingerprint", trust.manager.fingerprint().into()),
    ])
    .table(["key of", "key"], rows.concat())
}

/// What the certificate lets its holder do, and whose it is.
fn subject(pem: &str) -> Result<(Role, String), CliError> {
    let failed = |what: &str| {
        let next = "the manager sent a certificate of another version";
        CliError::Certificate(format!("the certificate {what}; {next}"))
    };
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|error| failed(&format!("is not PEM: {error}")))?;
    let certificate = pem
        .parse_x509()
        .map_err(|error| failed(&format!("cannot be read: {error}")))?;
    let subject = certificate.subject();
    let unit = subject.iter_organizational_unit().next();
    let name = subject.iter_common_name().next();
    let role = unit.and_then(|unit| Role::from_name(unit.as_str().ok()?));
    let name = name.and_then(|name| name.as_str().ok());
    match (role, name) {
        (Some(role), Some(name)) => Ok((role, name.to_owned())),
        _ => Err(failed("names no role and no name")),
    }
}

/// Make a one-time token for somebody else. For a platform admin.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// What the holder will be: policy-author, policy-approver, scope-owner, auditor, agent, ...
    #[arg(long, value_parser = parse_role)]
    role: Role,
    /// The name in the certificate; for an agent the host's name.
    #[arg(long)]
    name: String,
    /// Minutes until it lapses.
    #[arg(long, default_value_t = 60)]
    minutes: u32,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| {
        let names: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

pub(crate) fn token(args: &TokenArgs) -> Result<Answer, CliError> {
    let request = TokenRequest {
        role: args.role,
        name: args.name.clone(),
        minutes: args.minutes,
    };
    let token = args.caller.open()?.client.token(&request)?;
    Ok(Answer::new(
        Page::default().line(token.token.as_str()),
        &token,
    ))
}
