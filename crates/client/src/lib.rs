//! The manager's API as people and agents call it: one method for each route, over mutual TLS,
//! trusting one authority only. Nothing that comes back is believed: releases and bindings are
//! verified by whoever asked for them.
#![forbid(unsafe_code)]

mod error;

pub use error::ClientError;

use lictor_types::{HostId, MESSAGE_BYTES_MAX};
use lictor_wire::api::{
    ApiError, BindingDocument, EnrollRequest, Enrolled, Entries, EvidenceAccepted, EvidenceBatch,
    HostReport, Inventory, MoveEntry, Pack, Placement, Published, ReleaseDocument, Reported,
    SessionListing, SessionsAsked, SessionsListed, Token, TokenRequest,
};
use lictor_wire::{Envelope, Trust};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::time::Duration;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// Milliseconds that one call may take, but for a pack.
pub const CALL_MS_MAX: u64 = 10_000;
/// Milliseconds that building and sending a pack may take.
pub const PACK_MS_MAX: u64 = 600_000;
/// Bytes of a pack's answer. It is held in memory as a whole.
pub const PACK_BYTES_MAX: u64 = 1 << 30;

/// What a caller shows, and whom it believes. All of it is PEM.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The certificate.
    pub certificate: &'a [u8],
    /// The certificate's private key.
    pub key: &'a [u8],
    /// The certificate of the manager's authority.
    pub authority: &'a [u8],
}

/// What became of a placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Whether an agent is enrolled on that host.
    pub protected: bool,
    /// What the guest's owner chose, where none is.
    pub choice: Option<String>,
}

/// When the manager got a host's live sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// By its clock.
    pub listed_ms: u64,
}

/// Whether the manager works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The manager's version.
    pub version: String,
    /// Grows with every change.
    pub revision: u64,
    /// Entries in its log.
    pub entries: u64,
}

/// A caller of one manager.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    agent: ureq::Agent,
}

/// How long an answer may take and be.
#[derive(Debug, Clone, Copy)]
struct Room {
    ms_max: u64,
    bytes_max: u64,
}

const CALL: Room = Room {
    ms_max: CALL_MS_MAX,
    bytes_max: MESSAGE_BYTES_MAX as u64,
};
const PACK: Room = Room {
    ms_max: PACK_MS_MAX,
    bytes_max: PACK_BYTES_MAX,
};

impl Client {
    /// A caller with a certificate. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Credential`] names the part that is broken.
    pub fn new(url: &str, credentials: &Credentials<'_>) -> Result<Self, ClientError> {
        let certificate = certificate("certificate", credentials.certificate)?;
        let key =
            PrivateKey::from_pem(credentials.key).map_err(|error| credential("key", &error))?;
        let shown = ClientCert::new_with_certs(&[certificate], key);
        Self::connect(url, credentials.authority, Some(shown))
    }

    fn connect(
        url: &str,
        authority: &[u8],
        shown: Option<ClientCert>,
    ) -> Result<Self, ClientError> {
        let root = certificate("authority's certificate", authority)?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[root]))
            .client_cert(shown)
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
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
    /// [`ClientError`].
    pub fn enroll(
        url: &str,
        authority: &[u8],
        request: &EnrollRequest,
    ) -> Result<Enrolled, ClientError> {
        Self::connect(url, authority, None)?.send("POST", "/v1/enroll", request)
    }

    /// Makes a one-time token.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn token(&self, request: &TokenRequest) -> Result<Token, ClientError> {
        self.send("POST", "/v1/tokens", request)
    }

    /// Whom this installation believes, as the manager says.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn trust(&self) -> Result<Trust, ClientError> {
        self.get("/v1/trust")
    }

    /// The newest release, if there is one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn release(&self) -> Result<Option<ReleaseDocument>, ClientError> {
        match self.get("/v1/release") {
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Publishes a statement of which release is the newest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn publish_freshness(&self, envelope: &Envelope) -> Result<Published, ClientError> {
        self.send("POST", "/v1/freshness", envelope)
    }

    /// Publishes a release.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn publish_release(&self, envelope: &Envelope) -> Result<Published, ClientError> {
        self.send("POST", "/v1/releases", envelope)
    }

    /// The binding log.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn bindings(&self) -> Result<BindingDocument, ClientError> {
        self.get("/v1/bindings")
    }

    /// Publishes a binding.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn publish_binding(&self, envelope: &Envelope) -> Result<Published, ClientError> {
        self.send("POST", "/v1/bindings", envelope)
    }

    /// Publishes attested addresses.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn attest(&self, envelope: &Envelope) -> Result<Published, ClientError> {
        self.send("POST", "/v1/attestations", envelope)
    }

    /// Reports a host's state.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn report(&self, report: &HostReport) -> Result<Reported, ClientError> {
        self.send("PUT", &format!("/v1/hosts/{}", report.host), report)
    }

    /// Asks every host for its live sessions.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask_sessions(&self) -> Result<SessionsAsked, ClientError> {
        self.send("POST", "/v1/sessions", &())
    }

    /// Lists a host's live sessions.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn list_sessions(&self, listing: &SessionListing) -> Result<Listed, ClientError> {
        let path = format!("/v1/hosts/{}/sessions", listing.host);
        self.send("PUT", &path, listing)
    }

    /// A host's live sessions as it listed them last, if it was asked not long ago.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn sessions(&self, host: &HostId) -> Result<Option<SessionsListed>, ClientError> {
        match self.get(&format!("/v1/hosts/{host}/sessions")) {
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Hosts and guests.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn inventory(&self) -> Result<Inventory, ClientError> {
        self.get("/v1/inventory")
    }

    /// Appends evidence.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn evidence(&self, batch: &EvidenceBatch) -> Result<EvidenceAccepted, ClientError> {
        self.send("POST", "/v1/evidence", batch)
    }

    /// Reports where a guest is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn place(&self, placement: &Placement) -> Result<Placed, ClientError> {
        self.send("POST", "/v1/placements", placement)
    }

    /// Moves and stays without protection, each once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn moves(&self) -> Result<Vec<MoveEntry>, ClientError> {
        self.get("/v1/moves")
    }

    /// The newest signed checkpoint of the manager's log.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn checkpoint(&self) -> Result<String, ClientError> {
        self.get("/v1/log/checkpoint")
    }

    /// Entries of the manager's log from `first` on. The manager may give fewer than `count`; none
    /// means that there are no more.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn entries(&self, first: u64, count: u64) -> Result<Entries, ClientError> {
        self.get(&format!("/v1/log/entries?first={first}&count={count}"))
    }

    /// An evidence pack.
    ///
    /// # Errors
    /// [`ClientError`]. A pack of more than [`PACK_BYTES_MAX`] bytes is not taken.
    pub fn pack(&self) -> Result<Pack, ClientError> {
        self.call("GET", "/v1/pack", Vec::new(), PACK)
    }

    /// Whether the manager works.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn health(&self) -> Result<Health, ClientError> {
        self.get("/v1/health")
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call("GET", path, Vec::new(), CALL)
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| self.document(&format!("{method} {path}"), &error))?;
        self.call(method, path, bytes, CALL)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
        room: Room,
    ) -> Result<T, ClientError> {
        let call = format!("{method} {path}");
        let unreachable = |error: ureq::Error| ClientError::Unreachable {
            url: self.url.clone(),
            detail: error.to_string(),
        };
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(body)
            .map_err(|error| self.document(&call, &error))?;
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(Duration::from_millis(room.ms_max)))
            .build();
        let mut response = self.agent.run(request).map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(room.bytes_max);
        let bytes = body.read_to_vec().map_err(unreachable)?;
        if status >= 300 {
            return Err(ClientError::Refused {
                url: self.url.clone(),
                call,
                status,
                reasons: reasons(&bytes),
            });
        }
        serde_json::from_slice(&bytes).map_err(|error| self.document(&call, &error))
    }

    fn document(&self, call: &str, error: &dyn std::fmt::Display) -> ClientError {
        ClientError::Document {
            url: self.url.clone(),
            call: call.into(),
            detail: error.to_string(),
        }
    }
}

/// What a refusal says; where it is not the manager that answered, whatever came.
fn reasons(body: &[u8]) -> Vec<String> {
    match serde_json::from_slice::<ApiError>(body) {
        Ok(ApiError { error, reasons }) => [vec![error], reasons].concat(),
        Err(_) => vec![String::from_utf8_lossy(body).into_owned()],
    }
}

fn certificate(what: &'static str, pem: &[u8]) -> Result<Certificate<'static>, ClientError> {
    Certificate::from_pem(pem)
        .map(|certificate| certificate.to_owned())
        .map_err(|error| credential(what, &error))
}

fn credential(what: &'static str, error: &ureq::Error) -> ClientError {
    ClientError::Credential {
        what,
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_every_reason() {
        let check = |body: &str, expected: &[&str]| {
            assert_eq!(reasons(body.as_bytes()), expected, "{body}");
        };
        check(r#"{"error":"no"}"#, &["no"]);
        check(r#"{"error":"no","reasons":["a","b"]}"#, &["no", "a", "b"]);
        check("a proxy's page", &["a proxy's page"]);
    }

    #[test]
    fn each_broken_credential_is_named() {
        let broken = Credentials {
            certificate: b"no PEM",
            key: b"no PEM",
            authority: b"no PEM",
        };
        let error = Client::new("https://127.0.0.1:1", &broken).expect_err("not PEM");
        assert!(error.to_string().starts_with("the certificate"), "{error}");
        let request = EnrollRequest {
            token: String::new(),
            request_pem: String::new(),
            agent_key: None,
        };
        let error = Client::enroll("https://127.0.0.1:1", b"no PEM", &request);
        let error = error.expect_err("not PEM");
        assert!(
            error.to_string().contains("authority's certificate"),
            "{error}"
        );
    }
}
