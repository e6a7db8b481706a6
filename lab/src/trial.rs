//! Programs tried in a guest, on the guest's kernel: the machine's own kernel is newer than the
//! oldest one that is promised, and only running there shows that the promise holds.

use crate::command::{Process, mortal};
use crate::image::{self, Image};
use crate::initramfs::Archive;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const INIT: &str = include_str!("../guest/trial");
const MARK: &str = "LICTOR-TRIAL-";

/// The most programs and tools of one trial.
pub const PROGRAMS_MAX: usize = 64;

/// What is to be tried.
#[derive(Debug, Clone, Default)]
pub struct Trial {
    /// The programs, run one after the other as root, at most [`PROGRAMS_MAX`]. Their shared
    /// libraries go along.
    pub programs: Vec<PathBuf>,
    /// What each program is started with; words without white space.
    pub arguments: Vec<String>,
    /// Programs of this machine that those need, such as `ip`; looked up as a shell does.
    pub tools: Vec<String>,
    /// Kernel modules that are loaded first, with all that they need themselves.
    pub drivers: Vec<String>,
}

/// How one program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The program's file name.
    pub name: String,
    /// Its exit status, as a shell gives it.
    pub status: i32,
    /// What it printed, both streams.
    pub output: String,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialReport {
    /// The release of the kernel that ran, such as `6.1.0-56-cloud-amd64`.
    pub kernel: String,
    /// One for each program, in order.
    pub runs: Vec<Run>,
}

impl Trial {
    /// Boots a guest with two processors, runs every program and waits for its end. An
    /// empty folder of the caller's takes the guest's files.
    ///
    /// # Errors
    /// No guest image, a program or library that cannot be read, a guest that does not end within
    /// the limit, or results that do not name every program. A program that fails is no error: its
    /// [`Run`] says so.
    pub fn run(&self, folder: &Path, limit: Duration) -> Result<TrialReport> {
        let names = self.names()?;
        let image = Image::load()?;
        let initramfs = folder.join("initramfs");
        let archive = self.initramfs(&names)?;
        std::fs::write(&initramfs, &archive)?;
        let mut command = mortal("qemu-system-x86_64");
        command.args(qemu_args(&image.kernel, folder, archive.len()));
        command.stderr(std::fs::File::create(folder.join("stderr"))?);
        let mut process = Process::start("QEMU of a trial", command)?;
        let ended = process.wait(limit);
        let text = |name: &str| {
            let bytes = std::fs::read(folder.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        ended
            .and_then(|_| parse(&text("results"), &names))
            .with_context(|| {
                let (qemu, console) = (text("stderr"), text("console"));
                let results = text("results");
                format!("QEMU said: {qemu}\nconsole: {console}\nthe guest said: {results}")
            })
    }

    fn names(&self) -> Result<Vec<String>> {
        if self.programs.is_empty() || self.programs.len() > PROGRAMS_MAX {
            bail!("a trial has 1 to {PROGRAMS_MAX} programs");
        }
        let mut names = Vec::new();
        for program in &self.programs {
            let name = program.file_name().and_then(|name| name.to_str());
            let name = name.with_context(|| format!("{} has no plain name", program.display()))?;
            if names.iter().any(|other| other == name) || name.contains(char::is_whitespace) {
                bail!("the program's name {name:?} is there twice, or has white space in it");
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }

    fn initramfs(&self, names: &[String]) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        image::base(&mut archive, INIT)?;
        image::drivers(&mut archive, &image::cache(), &self.drivers)?;
        archive.directory("trial");
        archive.directory("tools");
        archive.file("trial/order", names.join("\n").as_bytes());
        archive.file("trial/arguments", self.arguments.join(" ").as_bytes());
        let mut libraries = BTreeSet::new();
        for (name, program) in names.iter().zip(&self.programs) {
            archive.file(&format!("trial/{name}"), &read(program)?);
            libraries.extend(shared_libraries(program)?);
        }
        for tool in &self.tools {
            let program = which(tool)?;
            archive.file(&format!("tools/{tool}"), &read(&program)?);
            libraries.extend(shared_libraries(&program)?);
        }
        add_libraries(&mut archive, &libraries)?;
        Ok(archive.finish())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn which(tool: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where Debian keeps the tools of root, who need not have it in the path.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(tool))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("no {tool} in the path; `cargo xtask setup` installs it"))
}

/// Libraries lie in the guest where the loader looked for them here.
fn add_libraries(archive: &mut Archive, libraries: &BTreeSet<PathBuf>) -> Result<()> {
    let mut folders = BTreeSet::new();
    for library in libraries {
        let inside = library.strip_prefix("/").unwrap_or(library);
        // A folder sorts before what is in it.
        folders.extend(inside.ancestors().skip(1).map(Path::to_path_buf));
    }
    for folder in folders.iter().filter(|folder| **folder != Path::new("")) {
        archive.directory(&folder.display().to_string());
    }
    for library in libraries {
        let inside = library.strip_prefix("/").unwrap_or(library);
        archive.file(&inside.display().to_string(), &read(library)?);
    }
    Ok(())
}

/// What the dynamic loader would load for a program, the loader included; nothing for a static one.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd, which every Debian system has")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !said.contains("not a dynamic executable") {
        bail!("ldd cannot read {}: {}", program.display(), said.trim());
    }
    libraries_of(&String::from_utf8_lossy(&output.stdout))
}

/// Lines such as `libz.so.1 => /lib/libz.so.1 (0x7f...)` and `/lib64/ld.so (0x7f...)`; the vDSO has
/// no file.
fn libraries_of(text: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("a shared library is missing: {}", line.trim());
        }
        libraries.extend(
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    Ok(libraries)
}

/// The guest's root file system takes half of its memory at most, and the kernel leaves out what
/// does not fit into it. So there is room for the archive as it comes, and unpacked more than once.
fn guest_mebibytes(archive_bytes: usize) -> usize {
    1_024 + 4 * archive_bytes.div_ceil(1 << 20)
}

fn qemu_args(kernel: &Path, folder: &Path, archive_bytes: usize) -> Vec<String> {
    let at = |name: &str| folder.join(name).display().to_string();
    let fixed = "-accel tcg -M q35 -smp 2 -nodefaults -no-user-config -display none \
                 -no-reboot -net none";
    let mut args: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
    let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
    option("-m", format!("{}M", guest_mebibytes(archive_bytes)));
    option("-kernel", kernel.display().to_string());
    option("-initrd", at("initramfs"));
    let words = "console=ttyS0 quiet nokaslr panic=-1 no_timer_check";
    option("-append", words.into());
    option("-serial", format!("file:{}", at("console")));
    option("-serial", format!("file:{}", at("results")));
    args
}

/// Reads what `guest/trial` prints. Whatever is missing is an error: silence is no success.
fn parse(results: &str, names: &[String]) -> Result<TrialReport> {
    let mut kernel = None;
    let mut runs = Vec::new();
    let mut open: Option<(String, String)> = None;
    let mut ended = false;
    for line in results.lines() {
        let (word, rest) = match line.strip_prefix(MARK) {
            Some(marked) => marked.split_once(' ').unwrap_or((marked, "")),
            None => ("", line),
        };
        match (word, open.as_mut()) {
            ("KERNEL", None) => kernel = Some(rest.to_owned()),
            ("BEGIN", None) => open = Some((rest.to_owned(), String::new())),
            ("STATUS", Some((name, output))) => {
                let status = rest.parse().context("an exit status is a number")?;
                let (name, output) = (std::mem::take(name), std::mem::take(output));
                runs.push(Run {
                    name,
                    status,
                    output,
                });
                open = None;
            }
            ("END", None) => ended = true,
            (_, Some((_, output))) => {
                output.push_str(line);
                output.push('\n');
            }
            (_, None) => {}
        }
    }
    let kernel = kernel.context("the guest named no kernel; it did not boot")?;
    let ran: Vec<_> = runs.iter().map(|run| &run.name).collect();
    if !ended || ran != names.iter().collect::<Vec<_>>() {
        bail!("the guest ran {ran:?} of {names:?} and then stopped");
    }
    Ok(TrialReport { kernel, runs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_the_loader_lists() {
        let check = |text: &str, expected: &[&str]| {
            let found = libraries_of(text).expect("all are there");
            assert_eq!(
                found,
                expected.iter().map(PathBuf::from).collect::<Vec<_>>()
            );
        };
        check(
            "\tvdso.so.1 (0x7f)\n\tz.so => /lib/x/z.so (0x7f)\n\t/lib64/ld.so (0x7f)\n",
            &["/lib/x/z.so", "/lib64/ld.so"],
        );
        check("\tstatically linked\n", &[]);
        assert!(libraries_of("\tlibq.so => not found\n").is_err());
    }

    #[test]
    fn results_that_do_not_name_every_program_are_an_error() {
        let names = ["a".to_owned(), "b".to_owned()];
        let whole = "LICTOR-TRIAL-KERNEL 6.1\nLICTOR-TRIAL-BEGIN a\nhello\n\
                     LICTOR-TRIAL-STATUS 0\nLICTOR-TRIAL-BEGIN b\nLICTOR-TRIAL-STATUS 101\n\
                     LICTOR-TRIAL-END\n";
        let report = parse(whole, &names).expect("whole");
        let found: Vec<_> = report
            .runs
            .iter()
            .map(|run| (run.name.as_str(), run.status, run.output.as_str()))
            .collect();
        assert_eq!(report.kernel, "6.1");
        assert_eq!(found, [("a", 0, "hello\n"), ("b", 101, "")]);
        let check = |text: &str, expected: &str| {
            let error = parse(text, &names).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("", "did not boot");
        check(&whole.replace("LICTOR-TRIAL-END\n", ""), "then stopped");
        check(&whole.replace("BEGIN b", "BEGIN c"), "then stopped");
        check(&whole.replace("STATUS 101", "STATUS ?"), "is a number");
        check(
            "LICTOR-TRIAL-KERNEL 6.1\nLICTOR-TRIAL-END\n",
            "then stopped",
        );
    }
}
