//! The agent's own socket on this host: one question, one answer.

use crate::CliError;
use clap::Args;
use lictor_wire::local::{LINE_BYTES_MAX, Request, Response, SOCKET};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Milliseconds that an answer may take: admitting a move asks another host.
pub const ANSWER_MS_MAX: u64 = 60_000;

/// Where the agent of this host listens.
#[derive(Debug, Clone, Args)]
pub struct Agent {
    /// The agent's control socket: `agent.sock` in the `run_dir` of its configuration.
    #[arg(long, value_name = "SOCKET", default_value = "/run/lictor/agent.sock")]
    socket: PathBuf,
}

impl Agent {
    #[cfg(test)]
    pub(crate) fn at(socket: &str) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Asks. An answer that says what is wrong becomes an error.
    pub(crate) fn ask(&self, request: &Request) -> Result<Response, CliError> {
        let answer = self
            .exchange(request)
            .map_err(|error| self.failed(&error))?;
        match serde_json::from_slice(&answer) {
            Ok(Response::Error { error }) => Err(self.error(error)),
            Ok(response) => Ok(response),
            Err(error) => Err(self.error(format!(
                "its answer cannot be read: {error}; is it of the same version?"
            ))),
        }
    }

    /// Why nobody answers, if nobody does.
    pub(crate) fn silence(&self, request: &Request) -> Option<CliError> {
        let error = self.exchange(request).err()?;
        Some(self.failed(&error))
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The agent's run directory, where sockets of guests are too.
    pub(crate) fn run_dir(&self) -> Result<&Path, CliError> {
        let parent = self.socket.parent().filter(|dir| dir.is_absolute());
        parent.ok_or_else(|| {
            self.error("expected an absolute path: QEMU is told of sockets beside this one")
        })
    }

    /// The agent answered, but something else than what this question has for answers.
    pub(crate) fn unexpected(&self, response: &Response) -> CliError {
        self.error(format!(
            "it answered something else ({response:?}); is it of the same version?"
        ))
    }

    pub(crate) fn error(&self, what: impl Into<String>) -> CliError {
        let (socket, what) = (self.socket.clone(), what.into());
        CliError::Agent { socket, what }
    }

    fn exchange(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        let limit = Some(Duration::from_millis(ANSWER_MS_MAX));
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = Vec::new();
        let reader = BufReader::new(stream);
        reader
            .take(LINE_BYTES_MAX as u64)
            .read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }

    fn failed(&self, error: &io::Error) -> CliError {
        let socket = SOCKET;
        self.error(match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("{error}; the socket is for root only, run this as root")
            }
            io::ErrorKind::NotFound => format!(
                "{error}; expected {socket} in the run_dir of the agent's configuration, name it \
                 with --socket"
            ),
            io::ErrorKind::ConnectionRefused => {
                format!("{error}; the agent does not run, start it with `lictor agent run`")
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer within {ANSWER_MS_MAX} ms; see the agent's journal")
            }
            io::ErrorKind::UnexpectedEof => {
                "it hung up without an answer; see the agent's journal".into()
            }
            _ => error.to_string(),
        })
    }
}
