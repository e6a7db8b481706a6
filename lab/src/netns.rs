//! A network namespace of the lab's own: made, entered, removed.

use crate::command::{self, mortal};
use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A named network namespace. The last clone that drops removes it.
#[derive(Debug, Clone)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
}

impl Netns {
    /// Makes the namespace, with its loopback device up.
    ///
    /// # Errors
    /// The name is taken, or the caller is not root.
    pub fn create(name: &str) -> Result<Self> {
        command::line(&format!("ip netns add {name}"))?;
        let netns = Self(Arc::new(Inner {
            name: name.into(),
            path: Path::new("/run/netns").join(name),
        }));
        command::line(&format!("ip -n {name} link set lo up"))?;
        Ok(netns)
    }

    /// The name as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file that holds the namespace.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Runs a closure on a thread of its own inside the namespace. Sockets that it makes stay
    /// inside.
    ///
    /// # Errors
    /// The namespace is gone, or what the closure returns.
    ///
    /// # Panics
    /// When the closure panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&self.0.path)?;
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs inside the namespace and is killed when its owner dies. Not by
    /// `ip netns exec`, which would mount a fresh /sys and hide every pinned BPF object.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = mortal("nsenter");
        command
            .arg(format!("--net={}", self.0.path.display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Writes one of the namespace's own sysctls, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// The kernel does not have it or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| {
            std::fs::write(&path, value).with_context(|| format!("cannot set {}", path.display()))
        })
    }

    /// Runs `ip` inside the namespace with the words of a line.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, words: &str) -> Result<String> {
        command::line(&format!("ip -n {} {words}", self.0.name))
    }
}

fn enter(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path)
        .with_context(|| format!("namespace {} is gone", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {}; the lab needs root", path.display()))
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The lab may have closed first and taken its namespaces with it.
        let removed = command::line(&format!("ip netns del {}", self.name));
        if let Err(error) = removed
            && self.path.exists()
        {
            eprintln!("lab: {error:#}");
        }
    }
}
