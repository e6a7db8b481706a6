//! Who may call: certificates, one-time tokens and enrolment.

use super::log::Journal;
use super::{App, Clock};
use crate::authority::subject;
use crate::error::AppError;
use crate::limits::{NAME_CHARS_MAX, TOKEN_MINUTES_MAX};
use lictor_evidence::{Body, KeyRole, Source};
use lictor_store::{CertificateRow, Store, TokenRow, Tx};
use lictor_types::{Digest, HostId};
use lictor_wire::api::{EnrollRequest, Enrolled, Role, Route, Token, TokenRequest};
use lictor_wire::{Trust, VerifyKey};
use rand::RngCore;
use rustls::pki_types::CertificateDer;

const MINUTE_MS: u64 = 60_000;
/// Random bytes in a token.
const TOKEN_BYTES: usize = 32;

/// Who calls, as the certificate and the store both say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) role: Role,
    pub(crate) name: String,
}

impl Peer {
    /// An agent speaks for its own host only.
    pub(crate) fn must_be_host(&self, host: &HostId) -> Result<(), AppError> {
        if self.role == Role::Agent && self.name == host.as_str() {
            return Ok(());
        }
        let name = &self.name;
        Err(AppError::Forbidden(format!(
            "the certificate of {name} does not speak for {host}"
        )))
    }
}

impl App {
    /// Lets a caller in, or not. A route that names no role needs no certificate.
    pub(crate) fn admit(
        &self,
        route: &Route,
        certificate: Option<&CertificateDer<'static>>,
    ) -> Result<Option<Peer>, AppError> {
        if route.roles.is_empty() {
            return Ok(None);
        }
        let refuse = |why: &str| Err(AppError::Unauthenticated(why.to_owned()));
        let Some(certificate) = certificate else {
            return refuse("this call needs a certificate; enrol with a one-time token first");
        };
        let fingerprint = Digest::of(certificate).to_string();
        let row = self.lock()?.store.read(|tx| tx.certificate(&fingerprint))?;
        let Some(row) = row else {
            return refuse("the certificate was not issued by this manager; enrol here");
        };
        if row.revoked_ms.is_some() {
            return refuse("the certificate was revoked; enrol with a new one-time token");
        }
        if row.not_after_ms <= self.now_ms() {
            return refuse("the certificate has lapsed; enrol with a new one-time token");
        }
        let Some((role, name)) = subject(certificate) else {
            return refuse("the certificate names no role and no name; enrol again");
        };
        if row.role != role.name() || row.name != name {
            return refuse("the certificate does not say what was issued; enrol again");
        }
        if !route.roles.contains(&role) {
            let allowed: Vec<_> = route.roles.iter().map(|role| role.name()).collect();
            return Err(AppError::Forbidden(format!(
                "{} {} is not for {}; expected {}",
                route.method,
                route.path,
                role.name(),
                allowed.join(" or ")
            )));
        }
        Ok(Some(Peer { role, name }))
    }

    /// Whom this installation believes.
    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Makes a one-time token, and logs for whom and who asked.
    pub(crate) fn issue_token(
        &self,
        peer: &Peer,
        request: &TokenRequest,
    ) -> Result<Token, AppError> {
        let now_ms = self.now_ms();
        let (token, row) = new_token(request, now_ms)?;
        self.lock()?.change(now_ms, |tx, journal| {
            store_token(tx, &row, now_ms)?;
            journal.add(Body::TokenIssued {
                role: row.role.clone(),
                name: row.name.clone(),
                by: peer.name.clone(),
                expires_ms: row.expires_ms,
            })
        })?;
        Ok(token)
    }

    /// Exchanges a token for a certificate, once.
    pub(crate) fn enroll(&self, request: &EnrollRequest) -> Result<Enrolled, AppError> {
        let mut state = self.lock()?;
        let now_ms = self.now_ms();
        let (digest, role, name) = state
            .store
            .read(|tx| find_token(tx, &request.token, now_ms))?;
        let issued = self
            .authority
            .issue_client(&request.request_pem, (role, &name), now_ms)?;
        state.change(now_ms, |tx, journal| {
            if !tx.use_token(&digest, now_ms)? {
                return Err(AppError::Unauthenticated(
                    "the token was used already".into(),
                ));
            }
            if role == Role::Agent {
                pin_agent_key(tx, &name, request.agent_key.as_ref())?;
            }
            tx.add_certificate(&CertificateRow {
                fingerprint: issued.fingerprint.to_string(),
                role: role.name().into(),
                name: name.clone(),
                not_after_ms: issued.not_after_ms,
                revoked_ms: None,
            })?;
            journal.add(Body::CertificateIssued {
                role: role.name().into(),
                name: name.clone(),
                certificate: issued.fingerprint,
                expires_ms: issued.not_after_ms,
            })?;
            match (key_role(role), &request.agent_key) {
                (Some(role), Some(key)) => journal.add(Body::KeyEnrolled {
                    role,
                    for_host: HostId::new(name.as_str())
                        .ok()
                        .filter(|_| role == KeyRole::Agent),
                    key: key.clone(),
                }),
                _ => Ok(()),
            }
        })?;
        Ok(Enrolled {
            certificate_pem: issued.pem.clone(),
            authority_pem: self.authority.certificate_pem().to_owned(),
            trust: self.trust.clone(),
        })
    }
}

/// Begins the log with the keys that this installation was made with.
pub(super) fn tell(trust: &Trust, journal: &mut Journal) -> Result<(), AppError> {
    let manager = [(KeyRole::Manager, &trust.manager)].into_iter();
    let authors = trust.authors.iter().map(|key| (KeyRole::Author, key));
    let approvers = trust.approvers.iter().map(|key| (KeyRole::Approver, key));
    for (role, key) in manager.chain(authors).chain(approvers) {
        journal.add(Body::KeyEnrolled {
            role,
            for_host: None,
            key: key.clone(),
        })?;
    }
    Ok(())
}

/// Makes a one-time token directly in a store: how the first one comes about. It is not in the log,
/// which a running manager alone may write; the enrolment that it is good for will be.
pub(crate) fn issue_token(
    store: &mut Store,
    request: &TokenRequest,
    clock: &Clock,
) -> Result<Token, AppError> {
    let now_ms = clock();
    let (token, row) = new_token(request, now_ms)?;
    store.write(|tx| store_token(tx, &row, now_ms))?;
    Ok(token)
}

fn new_token(request: &TokenRequest, now_ms: u64) -> Result<(Token, TokenRow), AppError> {
    check_token_request(request)?;
    let mut secret = [0; TOKEN_BYTES];
    rand::rngs::OsRng.fill_bytes(&mut secret);
    let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let row = TokenRow {
        digest: Digest::of(token.as_bytes()).0,
        role: request.role.name().into(),
        name: request.name.clone(),
        expires_ms: now_ms + u64::from(request.minutes) * MINUTE_MS,
        used_ms: None,
    };
    Ok((Token { token }, row))
}

fn store_token(tx: &Tx, row: &TokenRow, now_ms: u64) -> Result<(), AppError> {
    // A day longer than any lives, so that a late caller still hears why it is refused.
    tx.forget_tokens(now_ms.saturating_sub(u64::from(TOKEN_MINUTES_MAX) * MINUTE_MS))?;
    Ok(tx.add_token(row)?)
}

fn check_token_request(request: &TokenRequest) -> Result<(), AppError> {
    let TokenRequest {
        role,
        name,
        minutes,
    } = request;
    let chars = name.chars().count();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if chars == 0 || chars > NAME_CHARS_MAX || !name.chars().all(plain) {
        return Err(AppError::Malformed(format!(
            "name {name:?}: expected 1 to {NAME_CHARS_MAX} letters, digits, '-', '_', '.' or '@'"
        )));
    }
    if *role == Role::Agent {
        HostId::new(name.as_str()).map_err(|error| AppError::Malformed(error.to_string()))?;
        // Entries of such a host would read as the manager's own.
        if name.parse() == Ok(Source::Manager) {
            return Err(AppError::Malformed(format!("no host may be called {name}")));
        }
    }
    if *minutes == 0 || *minutes > TOKEN_MINUTES_MAX {
        return Err(AppError::Malformed(format!(
            "minutes {minutes}: expected 1 to {TOKEN_MINUTES_MAX}"
        )));
    }
    Ok(())
}

/// What an enrolled key signs; none for roles that sign nothing.
const fn key_role(role: Role) -> Option<KeyRole> {
    match role {
        Role::Agent => Some(KeyRole::Agent),
        Role::PolicyAuthor => Some(KeyRole::Author),
        Role::PolicyApprover => Some(KeyRole::Approver),
        Role::ScopeOwner => Some(KeyRole::ScopeOwner),
        Role::Witness => Some(KeyRole::Witness),
        Role::PlatformAdmin | Role::Auditor | Role::Connector => None,
    }
}

/// Compares with every token in constant time: how long it takes tells nothing about any of them.
fn find_token(tx: &Tx, token: &str, now_ms: u64) -> Result<([u8; 32], Role, String), AppError> {
    let digest = Digest::of(token.as_bytes()).0;
    let mut found = None;
    for row in tx.tokens()? {
        let difference = row
            .digest
            .iter()
            .zip(&digest)
            .fold(0, |sum, (one, other)| sum | (one ^ other));
        if std::hint::black_box(difference) == 0 {
            found = Some(row);
        }
    }
    let refuse = |why: &str| {
        Err(AppError::Unauthenticated(format!(
            "{why}; ask a platform admin for a new one"
        )))
    };
    let Some(row) = found else {
        return refuse("the token is not known here");
    };
    if row.used_ms.is_some() {
        return refuse("the token was used already");
    }
    if row.expires_ms <= now_ms {
        return refuse("the token has lapsed");
    }
    let role = Role::from_name(&row.role)
        .ok_or_else(|| AppError::Internal(format!("a token has the role {:?}", row.role)))?;
    Ok((digest, role, row.name))
}

/// Remembers the first key of a host. Another one must be made room for by an admin: whoever holds
/// a token must not be able to take a host over.
fn pin_agent_key(tx: &Tx, name: &str, key: Option<&VerifyKey>) -> Result<(), AppError> {
    let host = HostId::new(name).map_err(|error| AppError::Malformed(error.to_string()))?;
    let Some(key) = key else {
        let what = format!("agent_key: expected the key of the agent of {host}");
        return Err(AppError::Malformed(what));
    };
    let known = tx.host(&host)?.and_then(|row| row.key);
    match known.map(|text| text.parse::<VerifyKey>()) {
        None => Ok(tx.set_host_key(&host, Some(&key.to_string()))?),
        Some(Ok(known)) if known == *key => Ok(()),
        Some(_) => Err(AppError::Conflict(format!(
            "host {host} is enrolled with another key; if that is meant, remove the old one with \
             `lictor manager remove-agent --host {host}`"
        ))),
    }
}
