//! What libvirt's way of starting QEMU asks of the agent: QEMU is not root there, and yet reaches
//! the sockets between the two.

use crate::AgentError;
use lictor_wire::local::monitors;
use nix::unistd::{Gid, Group};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

/// The group that QEMU runs with, or none where it runs as root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QemuGroup(Option<Gid>);

impl QemuGroup {
    /// Looks the group up by its name.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if the host has no such group.
    pub fn named(name: Option<&str>) -> Result<Self, AgentError> {
        let Some(name) = name else {
            return Ok(Self(None));
        };
        let unknown = |what: String| {
            AgentError::Refused(format!(
                "qemu_group is {name:?}, {what}; name the group of qemu.conf, on Debian \
                 libvirt-qemu, or leave it out where QEMU runs as root"
            ))
        };
        match Group::from_name(name) {
            Ok(Some(group)) => Ok(Self(Some(group.gid))),
            Ok(None) => Err(unknown("which this host does not have".into())),
            Err(error) => Err(unknown(format!("which cannot be looked up: {error}"))),
        }
    }

    /// Lets QEMU connect to a socket, and nobody else but root.
    ///
    /// # Errors
    /// [`AgentError::File`] names the socket.
    pub fn admit(self, socket: &Path) -> Result<(), AgentError> {
        self.give(socket, (0o600, 0o660))
    }

    /// Makes the folder in which QEMU opens its monitors for the agent.
    ///
    /// # Errors
    /// [`AgentError::File`] names the folder.
    pub fn open_monitors(self, run_dir: &Path) -> Result<(), AgentError> {
        let folder = monitors(run_dir);
        fs::create_dir_all(&folder).map_err(|error| AgentError::io(&folder, &error))?;
        self.give(&folder, (0o700, 0o770))
    }

    fn give(self, path: &Path, (alone, shared): (u32, u32)) -> Result<(), AgentError> {
        let failed = |error: std::io::Error| AgentError::io(path, &error);
        let mode = if self.0.is_some() { shared } else { alone };
        // An earlier life of the agent may have been told of another group.
        let group = self.0.map_or(0, Gid::as_raw);
        chown(path, None, Some(group)).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_group_that_the_host_does_not_have_is_named_with_the_next_step() {
        let error = QemuGroup::named(Some("no-such-group")).expect_err("there is none");
        for part in ["no-such-group", "libvirt-qemu"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let none = QemuGroup::named(None).expect("QEMU is root's");
        assert_eq!(none, QemuGroup::default());
    }

    #[test]
    fn only_the_group_of_qemu_reaches_its_monitors_and_the_interlock() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: this test needs root");
            return;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let check = |group: QemuGroup, owner, folder_mode, socket_mode| {
            group.open_monitors(dir.path()).expect("made");
            let socket = dir.path().join("guest-db.sock");
            fs::write(&socket, "").expect("made");
            group.admit(&socket).expect("given");
            for (path, mode) in [(monitors(dir.path()), folder_mode), (socket, socket_mode)] {
                let found = fs::metadata(&path).expect("it is there");
                let found = (found.uid(), found.gid(), found.mode() & 0o7777);
                assert_eq!(found, (0, owner, mode), "{}", path.display());
            }
        };
        check(QemuGroup::default(), 0, 0o700, 0o600);
        let daemon = QemuGroup::named(Some("daemon")).expect("every Debian has it");
        let owner = daemon.0.expect("named").as_raw();
        check(daemon, owner, 0o770, 0o660);
        check(QemuGroup::default(), 0, 0o700, 0o600);
    }
}
