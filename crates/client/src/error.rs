//! What can go wrong when a manager is called.

/// Why a call gave no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A certificate or a key is not what it should be.
    #[error("the {what} cannot be read: {detail}; expected PEM as enrolment wrote it")]
    Credential {
        /// Which of them.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// No answer came: nobody listens, the handshake failed, or it took too long.
    #[error(
        "the manager at {url} gave no answer: {detail}; is it running, and is this certificate \
         one of its authority?"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        detail: String,
    },
    /// The manager answered that it does not do this.
    #[error("the manager at {url} refused {call} ({status}): {}", .reasons.join("; "))]
    Refused {
        /// Where.
        url: String,
        /// Method and path.
        call: String,
        /// The status of HTTP.
        status: u16,
        /// What is wrong, and each further reason; never empty.
        reasons: Vec<String>,
    },
    /// What was to be sent, or what came back, is not a document of this version.
    #[error("{call} at {url}: {detail}; are both sides of the same version?")]
    Document {
        /// Where.
        url: String,
        /// Method and path.
        call: String,
        /// What is wrong.
        detail: String,
    },
}
