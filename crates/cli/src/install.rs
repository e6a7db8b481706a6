//! `lictor host install` and `uninstall`: what libvirt, systemd and AppArmor are told of the agent.
//! All is decided before anything is written, and what somebody else wrote is left alone.

use crate::CliError;
use crate::files::{self, TEXT_BYTES_MAX};
use crate::local::Agent;
use crate::output::{Answer, Cell, Page};
use clap::Args;
use lictor_wire::local::monitors;
use serde::Serialize;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// In every file that `install` writes: it may replace and take away what has this line.
const MARK: &str = "# Written by `lictor host install`.";

/// Where things go.
#[derive(Debug, Clone, Args)]
pub(crate) struct InstallArgs {
    /// The file system that is written to, when it is not the running one.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Where the `lictor` program is on that host.
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/lictor")]
    program: PathBuf,
    /// The `state_dir` of the agent's configuration.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lictor/agent")]
    state: PathBuf,
    /// The group that QEMU runs with: `qemu_group` of the agent's configuration.
    #[arg(long, value_name = "GROUP", default_value = "libvirt-qemu")]
    qemu_group: String,
    #[command(flatten)]
    agent: Agent,
}

/// What becomes of a file when it is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Gone,
    /// Debian's profile includes the file without asking whether it is there.
    Empty,
}

/// A file of somebody else's program that is ours.
struct Entry {
    path: &'static str,
    mode: u32,
    without: Without,
    text: String,
}

/// A path as a shell, systemd and AppArmor all take it: without a character that is more than
/// itself to one of them.
fn plain<'a>(argument: &'static str, path: &'a Path) -> Result<&'a str, CliError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    let text = path.to_str().filter(|text| text.chars().all(allowed));
    text.filter(|_| path.is_absolute()).ok_or_else(|| {
        let what = "expected an absolute path, of letters, digits and ._+- only: it goes into a \
                    script and into AppArmor's rules";
        CliError::argument(argument, what)
    })
}

/// A group's name as `useradd(8)` has it, and systemd takes it.
fn group(name: &str) -> Result<&str, CliError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if !name.is_empty() && name.chars().all(allowed) {
        return Ok(name);
    }
    let what = "expected a group's name, of letters, digits and _- only";
    Err(CliError::argument("--qemu-group", what))
}

fn entries(args: &InstallArgs) -> Result<[Entry; 4], CliError> {
    let program = plain("--program", &args.program)?;
    let socket = plain("--socket", args.agent.socket())?;
    let state = plain("--state", &args.state)?;
    let run_dir = plain("--socket", args.agent.run_dir()?)?;
    let hook = format!(
        "#!/bin/sh\n{MARK}\n# Libvirt does not start a guest, or let one come, that the agent \
         refuses.\nexec {program} hook qemu --socket {socket} --state {state} \"$@\"\n"
    );
    let unit = format!(
        "{MARK}\n[Unit]\nDescription=Firewall of this host's guests\n\
         After=network-online.target\nWants=network-online.target\n\
         # A guest that libvirt starts by itself is refused while no agent answers: the agent says \
         when it does.\n\
         Before=libvirtd.service virtqemud.service libvirt-guests.service\n\
         # However often it cannot begin, such as while its address is not there, it tries again.\n\
         StartLimitIntervalSec=0\n\n\
         [Service]\nType=notify\nExecStart={program} agent run --config /etc/lictor/agent.toml\n\
         Restart=always\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n"
    );
    let apparmor = format!(
        "{MARK}\n# The interlock, where QEMU calls the agent, and the monitor, where the agent \
         calls QEMU.\n{run_dir}/guest-*.sock rw,\n{run_dir}/qemu/*.sock rw,\n"
    );
    let qemu = group(&args.qemu_group)?;
    let monitors = monitors(args.agent.run_dir()?);
    let folders = format!(
        "{MARK}\n# A guest whose owner allows it starts also where the agent never could, and its \
         QEMU offers the\n# monitor all the same.\n\
         d {run_dir} 0755 root root -\nd {monitors} 0770 root {qemu} -\n",
        monitors = plain("--socket", &monitors)?,
    );
    let entry = |path, mode, without, text| Entry {
        path,
        mode,
        without,
        text,
    };
    Ok([
        entry(
            "etc/libvirt/hooks/qemu.d/lictor",
            0o755,
            Without::Gone,
            hook,
        ),
        entry(
            "etc/systemd/system/lictor-agent.service",
            0o644,
            Without::Gone,
            unit,
        ),
        entry("etc/tmpfiles.d/lictor.conf", 0o644, Without::Gone, folders),
        entry(
            "etc/apparmor.d/local/abstractions/libvirt-qemu",
            0o644,
            Without::Empty,
            apparmor,
        ),
    ])
}

/// What is done to one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Deed {
    Written,
    Kept,
    Emptied,
    Removed,
    Absent,
}

impl Deed {
    const fn word(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Kept => "kept",
            Self::Emptied => "emptied",
            Self::Removed => "removed",
            Self::Absent => "absent",
        }
    }
}

/// What is found where a file goes.
struct Found {
    text: String,
    mode: u32,
}

impl Found {
    fn is_free(&self) -> bool {
        self.text.trim().is_empty()
    }

    fn is_ours(&self) -> bool {
        self.text.lines().any(|line| line == MARK)
    }
}

fn find(path: &Path) -> Result<Option<Found>, CliError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CliError::io(path, &error)),
    };
    if !metadata.is_file() {
        let what = "expected a plain file or none; move it away and install again";
        return Err(CliError::file(path, what));
    }
    Ok(Some(Found {
        text: files::read_text(path, TEXT_BYTES_MAX)?,
        mode: metadata.permissions().mode() & 0o777,
    }))
}

fn to_install(entry: &Entry, path: &Path) -> Result<Deed, CliError> {
    match find(path)? {
        None => Ok(Deed::Written),
        Some(found) if found.text == entry.text && found.mode == entry.mode => Ok(Deed::Kept),
        Some(found) if found.is_ours() || found.is_free() => Ok(Deed::Written),
        Some(_) => Err(CliError::file(
            path,
            format!(
                "somebody else wrote it, so nothing was installed; move it away, install again \
                 and add its lines to the new one, or add these to it:\n{}",
                entry.text
            ),
        )),
    }
}

fn to_uninstall(entry: &Entry, path: &Path) -> Result<Deed, CliError> {
    match find(path)? {
        None => Ok(Deed::Absent),
        Some(found) if !found.is_ours() => Ok(Deed::Kept),
        Some(_) if entry.without == Without::Empty => Ok(Deed::Emptied),
        Some(_) => Ok(Deed::Removed),
    }
}

fn execute(entry: &Entry, path: &Path, deed: Deed) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::io(path, &error);
    match deed {
        Deed::Kept | Deed::Absent => Ok(()),
        Deed::Removed => fs::remove_file(path).map_err(failed),
        Deed::Emptied => files::replace(path, b"").and_then(|()| set_mode(path, entry.mode)),
        Deed::Written => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(|error| CliError::io(folder, &error))?;
            }
            files::replace(path, entry.text.as_bytes())?;
            set_mode(path, entry.mode)
        }
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), CliError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| CliError::io(path, &error))
}

/// A file and what was done to it.
#[derive(Debug, Serialize)]
struct Done {
    path: PathBuf,
    deed: Deed,
}

fn carry_out(
    args: &InstallArgs,
    decide: fn(&Entry, &Path) -> Result<Deed, CliError>,
) -> Result<Answer, CliError> {
    let entries = entries(args)?;
    let decided = entries.iter().map(|entry| {
        let path = args.root.join(entry.path);
        let deed = decide(entry, &path)?;
        Ok((entry, Done { path, deed }))
    });
    let decided: Vec<_> = decided.collect::<Result<_, CliError>>()?;
    for (entry, done) in &decided {
        execute(entry, &done.path, done.deed)?;
    }
    let done: Vec<_> = decided.into_iter().map(|(_, done)| done).collect();
    let row = |one: &Done| [one.path.display().into(), Cell::from(one.deed.word())];
    let page = Page::default().table(["file", "is"], done.iter().map(row));
    Ok(Answer::new(page, &done))
}

pub(crate) fn install(args: &InstallArgs) -> Result<Answer, CliError> {
    carry_out(args, to_install)
}

pub(crate) fn uninstall(args: &InstallArgs) -> Result<Answer, CliError> {
    carry_out(args, to_uninstall)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(root: &Path) -> InstallArgs {
        InstallArgs {
            root: root.into(),
            program: "/usr/bin/lictor".into(),
            state: "/var/lib/lictor/agent".into(),
            qemu_group: "libvirt-qemu".into(),
            agent: Agent::at("/run/lictor/agent.sock"),
        }
    }

    #[track_caller]
    fn check(done: Result<Answer, CliError>, expected: [&str; 4]) {
        let value = done.expect("it goes through").value;
        let deeds = value.as_array().expect("a list").iter();
        let deeds: Vec<_> = deeds.map(|one| one["deed"].as_str()).collect();
        assert_eq!(deeds, expected.map(Some));
    }

    #[test]
    fn installing_twice_changes_nothing_and_uninstalling_leaves_what_others_include() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let args = args(folder.path());
        check(install(&args), ["written"; 4]);
        check(install(&args), ["kept"; 4]);
        let hook = folder.path().join("etc/libvirt/hooks/qemu.d/lictor");
        let mode = fs::metadata(&hook).expect("a hook").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o644)).expect("changed");
        check(install(&args), ["written", "kept", "kept", "kept"]);
        check(
            uninstall(&args),
            ["removed", "removed", "removed", "emptied"],
        );
        check(uninstall(&args), ["absent", "absent", "absent", "kept"]);
        check(install(&args), ["written"; 4]);
    }

    #[test]
    fn a_path_that_a_script_would_take_for_more_than_itself_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let check = |program: &str, socket: &str, part: &str| {
            let args = InstallArgs {
                program: program.into(),
                agent: Agent::at(socket),
                ..args(folder.path())
            };
            let error = install(&args).err().expect("it is refused").to_string();
            assert!(error.contains(part), "{error}");
        };
        let (program, socket) = ("/usr/bin/lictor", "/run/lictor/agent.sock");
        check("lictor", socket, "--program");
        check("/opt/my programs/lictor", socket, "--program");
        check(program, "/run/$(reboot)/agent.sock", "--socket");
        check(program, "agent.sock", "--socket");
        for group in ["", "kvm -\nd /etc 0777 root root -"] {
            let args = InstallArgs {
                qemu_group: group.into(),
                ..args(folder.path())
            };
            let error = install(&args).err().expect("it is refused").to_string();
            assert!(error.contains("--qemu-group"), "{error}");
        }
        assert!(!folder.path().join("etc").exists());
    }

    #[test]
    fn what_somebody_else_wrote_is_left_alone_and_nothing_else_is_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let args = args(folder.path());
        let [_, unit, _, apparmor] = entries(&args)
            .expect("plain paths")
            .map(|one| folder.path().join(one.path));
        fs::create_dir_all(apparmor.parent().expect("a folder")).expect("made");
        fs::write(&apparmor, "/srv/** r,\n").expect("written");
        let error = install(&args).err().expect("it is not ours").to_string();
        for part in ["libvirt-qemu", "somebody else", "/run/lictor/guest-*.sock"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!unit.exists());
        check(uninstall(&args), ["absent", "absent", "absent", "kept"]);
        let text = fs::read_to_string(&apparmor).expect("it is there");
        assert_eq!(text, "/srv/** r,\n");
    }
}
