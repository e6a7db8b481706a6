//! People and connectors: a role, a certificate, and calls of the manager's API.

use super::Manager;
use crate::host::Node;
use anyhow::{Context, Result, bail};
use lictor_types::MESSAGE_BYTES_MAX;
use lictor_wire::api::{ApiError, EnrollRequest, Enrolled, Role};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

const LIMIT: Duration = Duration::from_secs(20);

/// What a call gave.
#[derive(Debug, Clone)]
pub enum Answer<T> {
    /// It was done.
    Ok(T),
    /// It was refused.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The manager's words.
        error: ApiError,
    },
}

/// Somebody with a certificate of a manager.
#[derive(Debug)]
pub struct Person {
    name: String,
    desk: Node,
    url: String,
    agent: ureq::Agent,
}

impl Person {
    /// Exchanges a one-time token for a certificate, from a node of the management fabric.
    ///
    /// # Errors
    /// The manager refuses.
    pub fn enrol(manager: &Manager, desk: &Node, role: Role, name: &str) -> Result<Self> {
        let authority = std::fs::read(manager.authority())?;
        let key = rcgen::KeyPair::generate()?;
        let request = rcgen::CertificateParams::default().serialize_request(&key)?;
        let request = EnrollRequest {
            token: manager.token(role, name)?,
            request_pem: request.pem()?,
            agent_key: None,
        };
        let mut person = Self {
            name: name.into(),
            desk: desk.clone(),
            url: manager.url(),
            agent: connect(&authority, None)?,
        };
        let enrolled: Enrolled = person.must("POST", "/v1/enroll", &request)?;
        let certificate = Certificate::from_pem(enrolled.certificate_pem.as_bytes())?;
        let key = key.serialize_pem();
        let key = PrivateKey::from_pem(key.as_bytes())?;
        let identity = ClientCert::new_with_certs(&[certificate.to_owned()], key);
        person.agent = connect(&authority, Some(identity))?;
        Ok(person)
    }

    /// Calls the API; a refusal is an answer.
    ///
    /// # Errors
    /// Nobody answers, or the answer cannot be read.
    pub fn call<T: DeserializeOwned + Send>(
        &self,
        method: &str,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<Answer<T>> {
        let body = match method {
            "GET" => Vec::new(),
            _ => serde_json::to_vec(body)?,
        };
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(body)?;
        // The manager's address exists only on the management fabric.
        self.desk
            .netns()
            .run(|| {
                let mut response = self.agent.run(request)?;
                let limit = MESSAGE_BYTES_MAX as u64;
                let bytes = response.body_mut().with_config().limit(limit);
                let bytes = bytes.read_to_vec()?;
                let status = response.status().as_u16();
                if status >= 300 {
                    let error = serde_json::from_slice(&bytes)?;
                    return Ok(Answer::Refused { status, error });
                }
                Ok(Answer::Ok(serde_json::from_slice(&bytes)?))
            })
            .with_context(|| format!("{}: {method} {path}", self.name))
    }

    /// Calls the API for something that must be done.
    ///
    /// # Errors
    /// It is refused; the manager's words are in the error.
    pub fn must<T: DeserializeOwned + Send>(
        &self,
        method: &str,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T> {
        match self.call(method, path, body)? {
            Answer::Ok(value) => Ok(value),
            Answer::Refused { status, error } => bail!(
                "{}: {method} {path} is refused with {status}: {} {}",
                self.name,
                error.error,
                error.reasons.join("; ")
            ),
        }
    }

    /// Reads one resource.
    ///
    /// # Errors
    /// As for [`Person::must`].
    pub fn get<T: DeserializeOwned + Send>(&self, path: &str) -> Result<T> {
        self.must("GET", path, &())
    }
}

fn connect(authority: &[u8], identity: Option<ClientCert>) -> Result<ureq::Agent> {
    let root = Certificate::from_pem(authority)?.to_owned();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&[root]))
        .client_cert(identity)
        .build();
    Ok(ureq::Agent::config_builder()
        .tls_config(tls)
        // A refused call's connection is closed with its body unread: no second use.
        .max_idle_connections(0)
        .http_status_as_error(false)
        .timeout_global(Some(LIMIT))
        .build()
        .new_agent())
}
