//! Other controls of a host, such as intrusion detection: the agent's configuration says how each
//! is asked whether it works, and a thread of its own asks it, because what hangs must not keep the
//! agent waiting.

use lictor_policy::ControlName;
use lictor_wire::api::ControlState;
use serde::{Deserialize, Serialize};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a control may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(10);
/// Bytes of an answer that are looked at, and of a process's number.
const ANSWER_BYTES_MAX: usize = 4_096;
const PID_BYTES_MAX: u64 = 32;
/// The firewall is the agent's own, and nobody else says that it works.
pub(crate) const FIREWALL: &str = ControlName::FIREWALL;
/// Of a name in the policy language.
const NAME_BYTES_MAX: usize = 63;
/// Controls of one host.
pub(crate) const CONTROLS_MAX: usize = 32;
/// The kernel keeps so many bytes of a process's name.
const COMM_BYTES_MAX: usize = 15;

/// A control that something else on this host provides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// As the policy requires it: `ids`, `monitor`, ...
    pub name: String,
    /// What provides it.
    pub provider: String,
    /// Its version.
    pub version: String,
    /// How it is asked.
    pub probe: ControlProbe,
}

/// How a control is asked whether it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlProbe {
    /// It accepts a connection at this socket, and says what is expected if something is.
    Socket {
        /// The socket.
        path: PathBuf,
        /// A line that it is told.
        #[serde(default)]
        say: Option<String>,
        /// What its answer must contain.
        #[serde(default)]
        expect: Option<String>,
    },
    /// Its process runs.
    Process {
        /// The file with its number.
        pid_file: PathBuf,
        /// Its name, as `/proc/PID/comm` has it: numbers are given again.
        comm: String,
    },
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

/// Why a configuration of controls is refused.
pub(crate) fn check(controls: &[Control]) -> Result<(), String> {
    if controls.len() > CONTROLS_MAX {
        return Err(format!(
            "{} controls; expected at most {CONTROLS_MAX}",
            controls.len()
        ));
    }
    for (place, control) in controls.iter().enumerate() {
        let name = &control.name;
        if !is_name(name) {
            return Err(format!(
                "control {}: {name:?} is no name; expected 1 to {NAME_BYTES_MAX} ASCII letters, \
                 digits, `-`, `_` or `.`, as the policy writes it",
                place + 1
            ));
        }
        if name == FIREWALL {
            return Err(format!(
                "control {name}: it is the agent's own; take this one out"
            ));
        }
        if controls[..place].iter().any(|other| other.name == *name) {
            return Err(format!("control {name} is there twice; leave one of them"));
        }
        if let ControlProbe::Process { comm, .. } = &control.probe
            && comm.len() > COMM_BYTES_MAX
        {
            return Err(format!(
                "control {name}: comm {comm:?} is longer than the {COMM_BYTES_MAX} bytes that the \
                 kernel keeps; see /proc/PID/comm"
            ));
        }
    }
    Ok(())
}

/// When a control was asked last, and what is wrong with it.
type Answer = Option<(Instant, Result<(), String>)>;
/// What the threads have found last.
type Answers = Arc<Mutex<Vec<Answer>>>;

/// The controls that are asked.
#[derive(Debug)]
pub(crate) struct Controls {
    controls: Vec<Control>,
    answers: Answers,
}

impl Controls {
    /// Asks each control once every `round`, for ever.
    pub(crate) fn watch(controls: &[Control], round: Duration) -> Self {
        let answers: Answers = Arc::new(Mutex::new(vec![None; controls.len()]));
        for (place, control) in controls.iter().cloned().enumerate() {
            let answers = Arc::downgrade(&answers);
            std::thread::spawn(move || {
                loop {
                    let answer = ask(&control.probe);
                    let Some(answers) = answers.upgrade() else {
                        return;
                    };
                    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                    answers[place] = Some((Instant::now(), answer));
                    drop(answers);
                    std::thread::sleep(round);
                }
            });
        }
        let controls = controls.to_vec();
        Self { controls, answers }
    }

    /// How they are: what has not answered lately is not healthy.
    pub(crate) fn states(&self) -> Vec<ControlState> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let states = self.controls.iter().zip(answers.iter());
        let state = |(control, answer): (&Control, &Answer)| {
            let fresh = answer.as_ref().filter(|(at, _)| at.elapsed() <= FRESH);
            ControlState {
                name: control.name.clone(),
                provider: control.provider.clone(),
                version: control.version.clone(),
                healthy: fresh.is_some_and(|(_, answer)| answer.is_ok()),
            }
        };
        states.map(state).collect()
    }

    /// Why a control is not healthy.
    pub(crate) fn fault(&self, name: &str) -> Option<String> {
        let place = self
            .controls
            .iter()
            .position(|control| control.name == name)?;
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        match &answers[place] {
            None => Some("it was not asked yet".into()),
            Some((at, _)) if at.elapsed() > FRESH => Some(format!(
                "it has not answered for {} s",
                at.elapsed().as_secs()
            )),
            Some((_, answer)) => answer.as_ref().err().cloned(),
        }
    }
}

fn ask(probe: &ControlProbe) -> Result<(), String> {
    match probe {
        ControlProbe::Socket { path, say, expect } => {
            let words = (say.as_deref(), expect.as_deref());
            ask_socket(path, words).map_err(|why| format!("{}: {why}", path.display()))
        }
        ControlProbe::Process { pid_file, comm } => {
            let running = |path: &Path| -> Result<(), String> { look_for(path, comm) };
            running(pid_file).map_err(|why| format!("{}: {why}", pid_file.display()))
        }
    }
}

fn ask_socket(path: &Path, (say, expect): (Option<&str>, Option<&str>)) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream
        .set_read_timeout(Some(ANSWER_LIMIT))
        .map_err(failed)?;
    stream
        .set_write_timeout(Some(ANSWER_LIMIT))
        .map_err(failed)?;
    if let Some(say) = say {
        stream
            .write_all(format!("{say}\n").as_bytes())
            .map_err(failed)?;
    }
    let Some(expect) = expect else { return Ok(()) };
    let mut answer = Vec::new();
    let mut part = [0; 512];
    while answer.len() < ANSWER_BYTES_MAX {
        let length = stream.read(&mut part).map_err(failed)?;
        answer.extend(&part[..length]);
        if String::from_utf8_lossy(&answer).contains(expect) {
            return Ok(());
        }
        if length == 0 {
            break;
        }
    }
    let said = String::from_utf8_lossy(&answer);
    Err(format!("it said {said:?}; expected {expect:?} in it"))
}

fn look_for(pid_file: &Path, comm: &str) -> Result<(), String> {
    let mut text = String::new();
    let file = std::fs::File::open(pid_file).map_err(|error| error.to_string())?;
    let read = file.take(PID_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    let pid: u32 = text
        .trim()
        .parse()
        .map_err(|_| format!("{text:?} is no process's number"))?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|_| format!("process {pid} does not run"))?;
    runs(&stat, comm).map_err(|why| format!("process {pid} {why}"))
}

/// By its line in /proc (proc_pid_stat(5)): the name is in brackets and may have brackets itself.
fn runs(stat: &str, comm: &str) -> Result<(), String> {
    let parts = stat
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(") "));
    let (name, rest) = parts.ok_or_else(|| "cannot be read".to_owned())?;
    if name != comm {
        return Err(format!("is {name:?}; expected {comm:?}"));
    }
    match rest.chars().next() {
        Some('Z' | 'X' | 'x') => Err("has ended".into()),
        Some('T' | 't') => Err("is stopped".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_process_runs_under_its_own_name_only() {
        let check = |stat: &str, expected: Result<(), &str>| {
            assert_eq!(
                runs(stat, "a) b"),
                expected.map_err(str::to_owned),
                "{stat}"
            );
        };
        check("7 (a) b) S 1", Ok(()));
        check("7 (a) b) Z 1", Err("has ended"));
        check("7 (a) b) T 1", Err("is stopped"));
        check("7 (other) S 1", Err("is \"other\"; expected \"a) b\""));
        check("", Err("cannot be read"));
    }

    #[test]
    fn this_process_is_found_by_its_number_and_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        std::fs::write(&file, format!("{}\n", std::process::id())).expect("written");
        let stat = std::fs::read_to_string("/proc/self/stat").expect("readable");
        let name = stat.split(['(', ')']).nth(1).expect("a name");
        assert_eq!(look_for(&file, name), Ok(()));
        std::fs::write(&file, "none").expect("written");
        assert_eq!(
            look_for(&file, name),
            Err("\"none\" is no process's number".into())
        );
    }

    #[test]
    fn a_socket_must_answer_and_say_what_is_expected() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        assert!(ask_socket(&path, (None, None)).is_err(), "nobody listens");
        let listener = UnixListener::bind(&path).expect("listens");
        assert_eq!(ask_socket(&path, (None, None)), Ok(()));
        let server = std::thread::spawn(move || {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().expect("somebody calls");
                // The one that only connects says nothing and has hung up.
                let read = stream.read(&mut [0; 64]);
                read.expect("a word or the end");
                let _ = stream.write_all(b"{\"return\": \"OK\"}\n");
            }
        });
        assert_eq!(ask_socket(&path, (Some("status"), Some("OK"))), Ok(()));
        let refused = ask_socket(&path, (Some("status"), Some("running")));
        assert!(refused.is_err_and(|why| why.contains("expected \"running\"")));
        server.join().expect("it ends");
    }

    #[test]
    fn a_configuration_names_each_control_once_and_not_the_firewall() {
        let control = |name: &str| Control {
            name: name.into(),
            provider: "suricata".into(),
            version: "7".into(),
            probe: ControlProbe::Process {
                pid_file: "/run/suricata.pid".into(),
                comm: "Suricata-Main".into(),
            },
        };
        assert_eq!(check(&[control("ids"), control("monitor")]), Ok(()));
        assert!(check(&[control("ids"), control("ids")]).is_err());
        assert!(check(&[control("firewall")]).is_err());
        assert!(check(&[control("")]).is_err());
    }
}
