//! The agent's view of its manager: the calls of an agent, with the agent's own errors.
//! Nothing that comes back is believed: releases and bindings are verified by whoever asked for
//! them.

use crate::AgentError;
use crate::state::{self, StateDir};
use lictor_client::{Client, ClientError, Credentials};
use lictor_wire::api::{
    BindingDocument, EnrollRequest, Enrolled, EvidenceAccepted, EvidenceBatch, HostReport,
    ReleaseDocument, Reported, SessionListing,
};

/// A connection to the manager.
#[derive(Debug, Clone)]
pub struct Manager {
    url: String,
    client: Client,
}

impl Manager {
    /// Reads certificate, key and authority from the state directory.
    ///
    /// # Errors
    /// [`AgentError::File`] names the file that is missing, [`AgentError::Manager`] the part that
    /// is broken.
    pub fn open(url: &str, state: &StateDir) -> Result<Self, AgentError> {
        let read = |name: &str| {
            let path = state.path(name);
            std::fs::read(&path).map_err(|error| AgentError::file(&path, error.to_string()))
        };
        let credentials = Credentials {
            certificate: &read(state::CERTIFICATE)?,
            key: &read(state::CERTIFICATE_KEY)?,
            authority: &read(state::AUTHORITY)?,
        };
        let client = Client::new(url, &credentials).map_err(|error| failed(url, &error))?;
        let url = url.into();
        Ok(Self { url, client })
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
        Client::enroll(url, authority, request).map_err(|error| failed(url, &error))
    }

    /// The newest release, if there is one.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn release(&self) -> Result<Option<ReleaseDocument>, AgentError> {
        self.ask(Client::release)
    }

    /// The binding log.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn bindings(&self) -> Result<BindingDocument, AgentError> {
        self.ask(Client::bindings)
    }

    /// Publishes attested addresses.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn attest(&self, envelope: &lictor_wire::Envelope) -> Result<(), AgentError> {
        self.ask(|client| client.attest(envelope)).map(drop)
    }

    /// Reports the host's state, and learns how much of its evidence the manager has.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn report(&self, report: &HostReport) -> Result<Reported, AgentError> {
        self.ask(|client| client.report(report))
    }

    /// Lists the host's live sessions, which somebody asked for.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn list_sessions(&self, listing: &SessionListing) -> Result<(), AgentError> {
        self.ask(|client| client.list_sessions(listing)).map(drop)
    }

    /// Appends evidence.
    ///
    /// # Errors
    /// [`AgentError::Manager`].
    pub fn evidence(&self, batch: &EvidenceBatch) -> Result<EvidenceAccepted, AgentError> {
        self.ask(|client| client.evidence(batch))
    }

    fn ask<T>(
        &self,
        call: impl FnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, AgentError> {
        call(&self.client).map_err(|error| failed(&self.url, &error))
    }
}

fn failed(url: &str, error: &ClientError) -> AgentError {
    let what = match error {
        ClientError::Refused {
            status, reasons, ..
        } => format!("{status}: {}", reasons.join("; ")),
        other => other.to_string(),
    };
    AgentError::Manager {
        url: url.into(),
        what,
    }
}
