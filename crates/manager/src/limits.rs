//! Limits of the manager. Each has a behaviour when reached, and a test at the limit and beyond.

/// Connections at once. Further ones wait in the kernel's queue until one ends.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Bytes of one request's line and headers. A longer one is answered with 431 and closed.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Milliseconds until the TLS handshake must be done, else the connection is closed.
pub const HANDSHAKE_MS_MAX: u64 = 10_000;
/// Milliseconds until a request's headers must be there, else the connection is closed. An idle
/// connection ends by the same clock.
pub const HEADER_MS_MAX: u64 = 30_000;
/// Milliseconds until a request's body must be there, else 408.
pub const BODY_MS_MAX: u64 = 60_000;
/// Milliseconds that open calls get to end when the manager stops.
pub const SHUTDOWN_MS_MAX: u64 = 10_000;
/// Log entries in one answer; the caller asks again for more.
pub const ENTRIES_PER_ANSWER_MAX: u64 = 1_000;
/// Moves in one answer: the newest.
pub const MOVES_PER_ANSWER_MAX: u32 = 10_000;
/// Minutes that a one-time token may live, else 400: a day.
pub const TOKEN_MINUTES_MAX: u32 = 24 * 60;
/// Characters of a name in a certificate, else 400.
pub const NAME_CHARS_MAX: usize = 63;
/// Days that a certificate of a person, an agent or the manager lives.
pub const CERTIFICATE_DAYS: u64 = 365;
/// Days that the authority's own certificate lives.
pub const AUTHORITY_DAYS: u64 = 3_650;
/// Milliseconds that hosts are asked for their live sessions, and that those are held.
pub const SESSIONS_ASKED_MS_MAX: u64 = 60_000;
/// Bytes of live sessions that are held, of all hosts together; more are refused with 507.
pub const LISTINGS_BYTES_MAX: usize = 256 << 20;
/// Milliseconds after which a host that was silent no longer counts as protected.
pub const REPORT_AGE_MS_MAX: u64 = 60_000;
