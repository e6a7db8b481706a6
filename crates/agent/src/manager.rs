//! The agent's view of its manager: five calls over mutual TLS, trusting one authority only.
//! Nothing that comes back is believed: releases and bindings are verified by whoever asked for
//! them.

use crate::AgentError;
use crate::state::{self, StateDir};
use lictor_types::MESSAGE_BYTES_MAX;
use lictor_wire::api::{
    ApiError, BindingDocument, EnrollRequest, Enrolled, EvidenceAccepted, EvidenceBatch,
    HostReport, ReleaseDocument,
};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the manager.
#[derive(Debug, Clone)]
pub struct Manager {
    url: String,
    agent: ureq::Agent,
}

/// What a call gave, when the manager has nothing newer or refuses.
#[derive(Debug)]
enum Answer<T> {
    Ok(T),
    Refused { status: u16, error: String },
}

impl Manager {
    /// Reads certificate, key and authority from the state directory.
    ///
    /// # Errors
    /// [`AgentError::File`] names the file that is missing or broken.
    pub fn open(url: &str, state: &StateDir) -> Result<Self, AgentError> {
        let read = |name: &str| {
            let path = state.path(name);
            std::fs::read(&path).map_err(|error| AgentError::file(&path, error.to_string()))
        };
        let broken =
            |name: &str, error: ureq::Error| AgentError::file(&state.path(name), error.to_string());
        let certificate = Certificate::from_pem(&read(state::CERTIFICATE)?)
            .map_err(|error| broken(state::CERTIFICATE, error))?
            .to_owned();
        let key = PrivateKey::from_pem(&read(state::CERTIFICATE_KEY)?)
            .map_err(|error| broken(state::CERTIFICATE_KEY, error))?;
        let client = ClientCert::new_with_certs(&[certificate], key);
        Self::connect(url, &read(state::AUTHORITY)?, Some(client))
    }

    fn connect(
        url: &str,
        authority: &[u8],
        client: Option<ClientCert>,
    ) -> Result<Self, AgentError> {
        let root = Certificate::from_pem(authority).map_err(|error| AgentError::Manager {
            url: url.into(),
            what: format!("the authority's certificate cannot be read: {error}"),
        })?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[root.to_owned()]))
            .client_cert(client)
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .build()
            .new_agent();
        Ok(Self {
            url: url.trim_end_matches('/').into(),
            agent,
        })
    }

    /// Exchanges a one-time token for a certificate.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn enroll(
        url: &str,
        authority: &[u8],
        request: &EnrollRequest,
    ) -> Result<Enrolled, AgentError> {
        let manager = Self::connect(url, authority, None)?;
        manager.expect(manager.call("POST", "/v1/enroll", Some(request))?)
    }

    /// The newest release, if there is one.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn release(&self) -> Result<Option<ReleaseDocument>, AgentError> {
        match self.call::<(), _>("GET", "/v1/release", None)? {
            Answer::Refused { status: 404, .. } => Ok(None),
            answer => self.expect(answer).map(Some),
        }
    }

    /// The binding log.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn bindings(&self) -> Result<BindingDocument, AgentError> {
        self.expect(self.call::<(), _>("GET", "/v1/bindings", None)?)
    }

    /// Publishes attested addresses.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn attest(&self, envelope: &lictor_wire::Envelope) -> Result<(), AgentError> {
        let answer =
            self.call::<_, serde_json::Value>("POST", "/v1/attestations", Some(envelope))?;
        self.expect(answer).map(drop)
    }

    /// Reports the host's state.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn report(&self, report: &HostReport) -> Result<(), AgentError> {
        let path = format!("/v1/hosts/{}", report.host);
        let answer = self.call::<_, serde_json::Value>("PUT", &path, Some(report))?;
        self.expect(answer).map(drop)
    }

    /// Appends evidence.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn evidence(&self, batch: &EvidenceBatch) -> Result<EvidenceAccepted, AgentError> {
        self.expect(self.call("POST", "/v1/evidence", Some(batch))?)
    }

    fn failed(&self, what: impl Into<String>) -> AgentError {
        AgentError::Manager {
            url: self.url.clone(),
            what: what.into(),
        }
    }

    fn expect<T>(&self, answer: Answer<T>) -> Result<T, AgentError> {
        match answer {
            Answer::Ok(value) => Ok(value),
            Answer::Refused { status, error } => Err(self.failed(format!("{status}: {error}"))),
        }
    }

    fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&B>,
    ) -> Result<Answer<T>, AgentError> {
        let bytes = match body {
            Some(body) => {
                serde_json::to_vec(body).map_err(|error| self.failed(error.to_string()))?
            }
            None => Vec::new(),
        };
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(bytes)
            .map_err(|error| self.failed(error.to_string()))?;
        let mut response = self
            .agent
            .run(request)
            .map_err(|error| self.failed(error.to_string()))?;
        let status = response.status().as_u16();
        let limit = MESSAGE_BYTES_MAX as u64;
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        let body = body.map_err(|error| self.failed(error.to_string()))?;
        if status >= 300 {
            let error = serde_json::from_slice::<ApiError>(&body).map_or_else(
                |_| String::from_utf8_lossy(&body).into_owned(),
                |error| error.error,
            );
            return Ok(Answer::Refused { status, error });
        }
        let value = if body.is_empty() {
            b"null".to_vec()
        } else {
            body
        };
        serde_json::from_slice(&value)
            .map(Answer::Ok)
            .map_err(|error| self.failed(format!("its answer cannot be read: {error}")))
    }
}
