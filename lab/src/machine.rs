//! A machine of its own in a guest: Debian boots there with systemd, and the lab types at root's
//! shell. What depends on a boot, on a service manager or on a security module shows only there.

use crate::command::{Process, mortal};
use crate::image::{self, Image};
use crate::{debian, wait};
use anyhow::{Context, Result, bail};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const READY: &str = "LICTOR-SHELL-READY\n";
const STATUS: &str = "\nLICTOR-SHELL-STATUS ";

/// From a machine's start to its shell, without hardware virtualization on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// The same for one command.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);
/// How often it is looked whether the machine has said more.
const LOOK: Duration = Duration::from_millis(200);

/// Bytes of a command: what the terminal keeps for a reader.
const COMMAND_BYTES_MAX: usize = 4_000;
/// Bytes that one command may print.
const PRINTED_BYTES_MAX: usize = 4 << 20;
/// Bytes of the disk beside the system's: for what its owner brings.
const PAYLOAD_BYTES: u64 = 256 << 20;

const MEMORY: &str = "1536M";

/// A machine that runs, and ends when this drops. What it writes to its disks goes with it.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    process: Process,
    shell: UnixStream,
    /// What came from the shell and was not asked for yet.
    heard: String,
}

/// How a command ended in a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its exit status.
    pub status: i32,
    /// What it printed, both streams.
    pub text: String,
}

impl Machine {
    /// Boots a machine and waits for its shell, which is there before most services. What is in
    /// `payload` is copied over its root first. An empty folder of the caller's takes its files.
    ///
    /// # Errors
    /// No image, or no shell in time; the machine's console is in the error.
    pub fn boot(folder: &Path, payload: &Path) -> Result<Self> {
        let cache = image::cache();
        let kernel = Image::build(&cache)?.kernel;
        let disk = debian::disk(&cache)?;
        let more = folder.join("payload.ext4");
        debian::file_system(payload, &more, PAYLOAD_BYTES)?;
        let mut command = mortal("qemu-system-x86_64");
        command.args(qemu_args(&kernel, [&disk, &more], folder));
        command.stderr(std::fs::File::create(folder.join("stderr"))?);
        let mut process = Process::start("QEMU of a machine", command)?;
        let socket = folder.join("shell");
        let shell = wait::until("QEMU of a machine", BOOT_LIMIT, || {
            if let Some(status) = process.ended()? {
                let said = std::fs::read_to_string(folder.join("stderr"))?;
                bail!("QEMU ended with {status}: {said}");
            }
            Ok(UnixStream::connect(&socket).ok())
        })?;
        shell.set_read_timeout(Some(LOOK))?;
        let mut machine = Self {
            folder: folder.into(),
            process,
            shell,
            heard: String::new(),
        };
        machine.hear(READY, BOOT_LIMIT)?;
        Ok(machine)
    }

    /// What its kernel and systemd have said on the console.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Types a line at root's shell and waits for its end, whatever that is.
    ///
    /// # Errors
    /// The machine has ended, or says nothing in time.
    pub fn types(&mut self, line: &str) -> Result<Said> {
        if line.len() > COMMAND_BYTES_MAX || line.contains('\n') {
            bail!("expected one line of at most {COMMAND_BYTES_MAX} bytes, found {line:?}");
        }
        self.shell.write_all(line.as_bytes())?;
        self.shell.write_all(b"\n")?;
        let text = self.hear(STATUS, COMMAND_LIMIT).context(line.to_owned())?;
        let status = self.hear("\n", COMMAND_LIMIT)?;
        Ok(Said {
            status: status.parse().context("an exit status is a number")?,
            text,
        })
    }

    /// The same, and it must succeed.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub fn done(&mut self, line: &str) -> Result<String> {
        let said = self.types(line)?;
        if said.status != 0 {
            bail!("{line:?} ended with {}: {}", said.status, said.text);
        }
        Ok(said.text)
    }

    /// Reads up to a mark, which is taken away, and returns what came before it.
    fn hear(&mut self, mark: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut bytes = [0; 4_096];
        loop {
            if let Some(at) = self.heard.find(mark) {
                let rest = self.heard.split_off(at + mark.len());
                let mut before = std::mem::replace(&mut self.heard, rest);
                before.truncate(at);
                return Ok(before);
            }
            if let Some(status) = self.process.ended()? {
                bail!("the machine ended with {status}: {}", self.console());
            }
            if Instant::now() > end || self.heard.len() > PRINTED_BYTES_MAX {
                let (heard, console) = (&self.heard, self.console());
                bail!("waited {limit:?} for {mark:?}; heard {heard:?}; console: {console}");
            }
            match self.shell.read(&mut bytes) {
                Ok(0) => bail!("the machine hung up: {}", self.console()),
                Ok(length) => self
                    .heard
                    .push_str(&String::from_utf8_lossy(&bytes[..length])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn qemu_args(kernel: &Path, disks: [&Path; 2], folder: &Path) -> Vec<String> {
    let fixed = "-accel tcg -cpu max -M q35 -smp 2 -nodefaults -no-user-config -display none \
                 -nic none";
    let mut args: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
    let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
    option("-m", MEMORY.into());
    option("-kernel", kernel.display().to_string());
    let words = "console=ttyS0 nokaslr no_timer_check root=/dev/nvme0n1 rw";
    option("-append", format!("{words} init={}", debian::INIT));
    // The kernel has the driver of such disks built in, so that it needs no initramfs. One
    // controller, because the kernel looks at several at once and names them as it finds them.
    option("-device", "nvme,id=disks,serial=disks".into());
    for (number, disk) in (1..).zip(disks) {
        let file = disk.display();
        option(
            "-drive",
            format!("file={file},format=raw,if=none,id=disk{number},snapshot=on"),
        );
        option(
            "-device",
            format!("nvme-ns,bus=disks,nsid={number},drive=disk{number}"),
        );
    }
    let console = folder.join("console");
    option("-serial", format!("file:{}", console.display()));
    let shell = folder.join("shell");
    option(
        "-serial",
        format!("unix:{},server=on,wait=off", shell.display()),
    );
    args
}
