//! People and connectors: a role, a certificate, and calls of the manager's API.

use super::Manager;
use crate::host::Node;
use anyhow::{Context, Result, bail};
use lictor_client::{Client, ClientError, Credentials};
use lictor_wire::api::{EnrollRequest, Role};

/// What a call gave.
#[derive(Debug, Clone)]
pub enum Answer<T> {
    /// It was done.
    Ok(T),
    /// It was refused.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The manager's words, and each further reason.
        reasons: Vec<String>,
    },
}

impl<T> Answer<T> {
    /// What was to be done, and was.
    ///
    /// # Errors
    /// It was refused; the manager's words are in the error.
    pub fn done(self) -> Result<T> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Refused { status, reasons } => {
                bail!("refused with {status}: {}", reasons.join("; "))
            }
        }
    }
}

/// Somebody with a certificate of a manager.
#[derive(Debug)]
pub struct Person {
    name: String,
    desk: Node,
    url: String,
    authority: Vec<u8>,
    certificate: String,
    key: String,
}

impl Person {
    /// Exchanges a one-time token for a certificate, from a node of the management fabric.
    ///
    /// # Errors
    /// The manager refuses.
    pub fn enrol(manager: &Manager, desk: &Node, role: Role, name: &str) -> Result<Self> {
        let authority = std::fs::read(manager.authority())?;
        let url = manager.url();
        let key = rcgen::KeyPair::generate()?;
        let request = rcgen::CertificateParams::default().serialize_request(&key)?;
        let request = EnrollRequest {
            token: manager.token(role, name)?,
            request_pem: request.pem()?,
            agent_key: None,
        };
        let enrolled = desk
            .netns()
            .run(|| Ok(Client::enroll(&url, &authority, &request)?))
            .with_context(|| format!("enrolling {name}"))?;
        Ok(Self {
            name: name.into(),
            desk: desk.clone(),
            url,
            authority,
            certificate: enrolled.certificate_pem,
            key: key.serialize_pem(),
        })
    }

    /// Calls the API over a connection of its own; a refusal is an answer.
    ///
    /// # Errors
    /// Nobody answers, or the answer cannot be read.
    pub fn call<T: Send>(
        &self,
        call: impl FnOnce(&Client) -> Result<T, ClientError> + Send,
    ) -> Result<Answer<T>> {
        let credentials = Credentials {
            certificate: self.certificate.as_bytes(),
            key: self.key.as_bytes(),
            authority: &self.authority,
        };
        // The manager's address exists only on the management fabric.
        let result = self
            .desk
            .netns()
            .run(|| Ok(Client::new(&self.url, &credentials).and_then(|client| call(&client))))?;
        match result {
            Ok(value) => Ok(Answer::Ok(value)),
            Err(ClientError::Refused {
                status, reasons, ..
            }) => Ok(Answer::Refused { status, reasons }),
            Err(error) => Err(error).with_context(|| self.name.clone()),
        }
    }

    /// Calls the API for something that must be done.
    ///
    /// # Errors
    /// It is refused; the manager's words are in the error.
    pub fn must<T: Send>(
        &self,
        call: impl FnOnce(&Client) -> Result<T, ClientError> + Send,
    ) -> Result<T> {
        self.call(call)?.done().with_context(|| self.name.clone())
    }
}
