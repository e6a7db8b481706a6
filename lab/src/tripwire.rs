//! Stops a process in its middle: at the system call with which it makes a file. Whoever looks
//! from outside is too late, for what comes next is done some microseconds later.

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at threads of which none has come to a system call.
const PAUSE: Duration = Duration::from_micros(50);
/// How long a thread may take to stand still.
const LIMIT: Duration = Duration::from_secs(20);

/// A process that will stand still, as by SIGSTOP, once it has made a file and before it does
/// anything else.
#[derive(Debug)]
pub struct Tripwire(JoinHandle<Result<()>>);

impl Tripwire {
    /// Looks at every system call of this process until the file is there.
    ///
    /// # Errors
    /// The process cannot be traced.
    pub fn arm(pid: u32, file: PathBuf, limit: Duration) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?);
        let (armed, waits) = mpsc::channel();
        // What is traced answers to the thread that traces it, and to no other.
        let thread = std::thread::spawn(move || {
            let traced = seize(pid)?;
            // Whoever waits for it may have gone.
            let _ = armed.send(());
            watch(pid, traced, &file, limit)
        });
        match waits.recv() {
            Ok(()) => Ok(Self(thread)),
            Err(_) => bail!("cannot trace {pid}: {:?}", thread.join()),
        }
    }

    /// Waits until the process stands still. SIGCONT lets it go on.
    ///
    /// # Errors
    /// The file has not come in time, or the process has ended.
    ///
    /// # Panics
    /// When the thread that traces panics.
    pub fn wait(self) -> Result<()> {
        self.0
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn threads(pid: Pid) -> Result<Vec<Pid>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        threads.push(Pid::from_raw(name.to_string_lossy().parse()?));
    }
    Ok(threads)
}

/// A thread that has come to a stop, if it has.
fn stopped(thread: Pid) -> nix::Result<Option<WaitStatus>> {
    // Only what is asked for by its number: other children are others' to wait for.
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
    match waitpid(thread, Some(flags))? {
        WaitStatus::StillAlive => Ok(None),
        status => Ok(Some(status)),
    }
}

fn wait_stopped(thread: Pid) -> Result<WaitStatus> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = stopped(thread)? {
            return Ok(status);
        }
        if Instant::now() > end {
            bail!("thread {thread} does not stand still");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a thread was there to do that with: one that has ended since it was listed is none.
fn lives(done: nix::Result<()>) -> nix::Result<bool> {
    match done {
        Err(Errno::ESRCH) => Ok(false),
        done => done.map(|()| true),
    }
}

fn seize(pid: Pid) -> Result<Vec<Pid>> {
    let mut traced = Vec::new();
    for thread in threads(pid)? {
        let seized = ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD);
        if !lives(seized)? || !lives(ptrace::interrupt(thread))? {
            continue;
        }
        wait_stopped(thread)?;
        if lives(ptrace::syscall(thread, None))? {
            traced.push(thread);
        }
    }
    Ok(traced)
}

fn watch(pid: Pid, mut traced: Vec<Pid>, file: &std::path::Path, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    let mut at_rest = None;
    while at_rest.is_none() {
        let mut idle = true;
        for thread in traced.clone() {
            match stopped(thread) {
                Ok(None) => continue,
                Ok(Some(WaitStatus::Exited(..) | WaitStatus::Signaled(..)))
                | Err(Errno::ECHILD) => {
                    traced.retain(|one| *one != thread);
                }
                Ok(Some(status)) if file.exists() => {
                    at_rest = Some((thread, status));
                    break;
                }
                Ok(Some(status)) => drop(lives(resume(thread, status))?),
                Err(error) => return Err(error.into()),
            }
            idle = false;
        }
        if at_rest.is_none() && (traced.is_empty() || Instant::now() > end) {
            let left = let_go(&traced, None);
            bail!("no {} in time; {left:?}", file.display());
        }
        if idle {
            std::thread::sleep(PAUSE);
        }
    }
    // For the whole process. A thread meets it on its way out of the system call it is in.
    kill(pid, Signal::SIGSTOP)?;
    let_go(&traced, at_rest)
}

/// Lets a thread go on to its next system call, with the signal that it was about to get.
fn resume(thread: Pid, status: WaitStatus) -> nix::Result<()> {
    let signal = match status {
        WaitStatus::Stopped(_, signal) => Some(signal),
        _ => None,
    };
    ptrace::syscall(thread, signal)
}

/// Traces the threads no more.
fn let_go(traced: &[Pid], at_rest: Option<(Pid, WaitStatus)>) -> Result<()> {
    for thread in traced {
        let status = match at_rest {
            Some((rests, status)) if rests == *thread => status,
            _ => {
                if !lives(ptrace::interrupt(*thread))? {
                    continue;
                }
                wait_stopped(*thread)?
            }
        };
        let signal = match status {
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        lives(ptrace::detach(*thread, signal))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Process;
    use std::process::Command;

    #[test]
    fn a_process_stands_still_between_the_file_it_makes_and_what_it_does_next() {
        if !crate::privileged() {
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [go, first, second] = ["go", "first", "second"].map(|name| folder.path().join(name));
        let script = "while [ ! -e go ]; do :; done; : > first; : > second";
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(folder.path());
        let mut process = Process::start("a shell", command).expect("it starts");
        let wire = Tripwire::arm(process.pid(), first.clone(), LIMIT).expect("it is traced");
        std::fs::write(go, "").expect("written");
        wire.wait().expect("it stands still");
        assert!(first.exists() && !second.exists());
        process.signal(Signal::SIGCONT as i32).expect("it goes on");
        process.wait(LIMIT).expect("it ends");
        assert!(second.exists());
    }
}
