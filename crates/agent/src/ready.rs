//! Tells the service manager that the agent answers, so that what is ordered after it can start
//! guests: `sd_notify(3)`, one datagram.

use crate::AgentError;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says it on the socket that the service manager has named, if there is one.
///
/// # Errors
/// [`AgentError::Refused`] names the socket: a service manager that hears nothing ends the agent
/// later, without a word of why.
pub(crate) fn tell(socket: Option<&OsStr>) -> Result<(), AgentError> {
    let Some(socket) = socket else {
        return Ok(());
    };
    let failed = |error: std::io::Error| {
        AgentError::Refused(format!(
            "NOTIFY_SOCKET is {}: {error}; expected the socket of a service manager",
            socket.display()
        ))
    };
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    };
    let address = address.map_err(failed)?;
    let sender = UnixDatagram::unbound().map_err(failed)?;
    let sent = sender.send_to_addr(b"READY=1", &address);
    sent.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hears(address: &SocketAddr, name: &OsStr) {
        let manager = UnixDatagram::bind_addr(address).expect("a free name");
        tell(Some(name)).expect("somebody listens");
        let mut bytes = [0; 64];
        let length = manager.recv(&mut bytes).expect("it was said");
        assert_eq!(&bytes[..length], b"READY=1");
    }

    #[test]
    fn a_service_manager_hears_of_it_by_a_path_or_by_an_abstract_name() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("notify");
        let address = SocketAddr::from_pathname(&path).expect("short enough");
        hears(&address, path.as_os_str());
        let name = format!("lictor-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("short enough");
        hears(&address, OsStr::new(&format!("@{name}")));
    }

    #[test]
    fn without_a_service_manager_nothing_is_said_and_a_dead_one_is_an_error() {
        tell(None).expect("nobody waits");
        let error = tell(Some(OsStr::new("/nowhere/notify"))).expect_err("nobody listens");
        assert!(error.to_string().contains("/nowhere/notify"), "{error}");
    }
}
