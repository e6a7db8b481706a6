//! Cgroups of version 2 that stand still and go on, as a container's does.

use crate::guest::NsGuest;
use crate::wait;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// The cgroup of a container. It goes with the container's last process.
#[derive(Debug)]
pub struct Freezer(PathBuf);

/// Where cgroups of version 2 are on this machine.
fn root() -> Result<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts")?;
    let mounts = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let found = mounts.filter(|words| words.get(2) == Some(&"cgroup2"));
    let found = found
        .filter_map(|words| words.get(1).map(PathBuf::from))
        .next();
    found.context("no cgroup2 is mounted; a lab freezes containers by it")
}

/// Removes what labs of this prefix have left there, as far as it is empty.
pub(crate) fn remove(prefix: &str) {
    let folders = root().and_then(|root| Ok(std::fs::read_dir(root)?));
    for folder in folders.into_iter().flatten().flatten() {
        let name = folder.file_name();
        if name.to_string_lossy().starts_with(prefix) {
            let _ = std::fs::remove_dir(folder.path());
        }
    }
}

impl Freezer {
    /// A cgroup of its own for a container's process; children that it makes later are in it, too.
    ///
    /// # Errors
    /// There are no cgroups of version 2, or the kernel refuses.
    pub fn hold(guest: &NsGuest, pid: u32) -> Result<Self> {
        let path = root()?.join(guest.netns().name());
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let freezer = Self(path);
        freezer.write("cgroup.procs", &pid.to_string())?;
        Ok(freezer)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Stops every process in it, and waits until all stand still.
    ///
    /// # Errors
    /// The kernel refuses, or they do not.
    pub fn freeze(&self) -> Result<()> {
        self.write("cgroup.freeze", "1")?;
        self.wait_for("frozen 1")
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As for [`Freezer::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.write("cgroup.freeze", "0")?;
        self.wait_for("frozen 0")
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.0.join(file);
        std::fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    }

    fn wait_for(&self, wanted: &str) -> Result<()> {
        let path = self.0.join("cgroup.events");
        wait::until("a cgroup's state", LIMIT, || {
            let events = std::fs::read_to_string(&path)?;
            Ok(events.lines().any(|line| line == wanted).then_some(()))
        })
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let ended = self.write("cgroup.kill", "1").and_then(|()| {
            self.wait_for("populated 0")?;
            Ok(std::fs::remove_dir(&self.0)?)
        });
        // The lab may have closed first and taken it away.
        if let Err(error) = ended
            && self.0.exists()
        {
            eprintln!("lab: {error:#}");
        }
    }
}
