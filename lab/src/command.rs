//! Commands: run to the end with a full error, or spawned so that they die with the lab's owner.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::process::{Child, Command, ExitStatus};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};

/// Whoever makes things holds it for reading. The signal handler takes it for writing and never
/// gives it back, so that nothing new appears behind the clean-up.
static GATE: RwLock<()> = RwLock::new(());

pub(crate) fn making() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn close_gate() -> RwLockWriteGuard<'static, ()> {
    GATE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// The program cannot be started, or fails; its own words are in the error.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    let _making = making();
    run_ungated(program, args)
}

pub(crate) fn run_ungated<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}; `cargo xtask setup` installs it"))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout).trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a line of words, split at white space. For the lab's own fixed `ip` commands.
pub(crate) fn line(words: &str) -> Result<String> {
    let mut words = words.split_whitespace();
    let program = words.next().context("an empty command line")?;
    run(program, &words.collect::<Vec<_>>())
}

/// Prefixes a program so that the kernel kills it when its owner dies, however the owner dies.
pub(crate) fn mortal(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Spawns from one thread that lives as long as the process: the kernel's parent-death signal fires
/// when the spawning *thread* ends, so a short-lived caller would take its children with it.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<std::sync::Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let sender = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in jobs {
                // A caller that no longer waits has no use for the answer.
                let _ = reply.send(command.spawn());
            }
        });
        std::sync::Mutex::new(sender)
    });
    let text = format!("{command:?}");
    let (reply, answer) = mpsc::channel();
    let sender = sender
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    sender
        .send((command, reply))
        .ok()
        .context("the spawner thread has ended")?;
    answer
        .recv()?
        .with_context(|| format!("cannot start {text}"))
}

/// A running program that is killed and reaped when this guard drops.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a command. Use [`crate::Netns::command`] to make one that runs inside a namespace and
    /// dies with this process.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        let _making = making();
        Ok(Self {
            name: name.into(),
            child: spawn(command)?,
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel does not know the child any more.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot ask after {}", self.name))
    }

    /// Sends a signal by its number, such as 15 for SIGTERM.
    ///
    /// # Errors
    /// The number is no signal, or the process is gone.
    pub fn signal(&self, number: i32) -> Result<()> {
        let signal = nix::sys::signal::Signal::try_from(number)?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Kills it at once (SIGKILL) and reaps it.
    ///
    /// # Errors
    /// The kernel does not know the child any more.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("cannot reap {}", self.name))?;
        Ok(())
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// It has not ended in time.
    pub fn wait(&mut self, limit: std::time::Duration) -> Result<ExitStatus> {
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!("{} did not end within {limit:?}", self.name);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended and been reaped already; that is the wanted state.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
