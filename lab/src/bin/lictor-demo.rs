//! All of Lictor on real guests, with live progress: what `cargo xtask demo` runs.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use lictor_lab::demo::{self, Audience, Options, Shown, Step};
use lictor_lab::site::Programs;
use lictor_lab::{Image, image};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Show all of Lictor on real guests. Needs root, and makes namespaces of its own.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The folder with `lictor` and `lictor-verify`; by default where this program is.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// The folder with the demo's policies.
    #[arg(long, default_value = "examples/pci")]
    policies: PathBuf,
    /// Where summary.json, the report and the evidence pack go. Emptied first.
    #[arg(long, default_value = "target/demo")]
    folder: PathBuf,
    /// Leave everything up at the end, and say how to enter it.
    #[arg(long)]
    keep: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs: what is in summary.json.
    Json,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lictor-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo makes network namespaces and loads BPF programs; run it as root");
    }
    let options = Options {
        programs: programs(args.programs.as_deref())?,
        policies: args.policies.clone(),
        folder: args.folder.clone(),
    };
    Image::build(&image::cache())?;
    let mut stage = Stage::new();
    let begin = Instant::now();
    let shown = demo::run(&options, &mut stage)?;
    let text = match args.output {
        Output::Table => result(&shown, begin.elapsed(), &options.folder),
        Output::Json => serde_json::to_string_pretty(&shown.summary)? + "\n",
    };
    print(&text)?;
    if args.keep {
        keep(&shown)?;
    }
    Ok(shown.summary.holds())
}

fn programs(folder: Option<&Path>) -> Result<Programs> {
    let own = std::env::current_exe()?;
    let folder = match folder {
        Some(folder) => folder.to_owned(),
        None => own
            .parent()
            .context("this program lies in a folder")?
            .to_owned(),
    };
    let program = |name: &str| {
        let path = folder.join(name);
        path.canonicalize()
            .with_context(|| format!("no {}; `cargo xtask demo` builds it", path.display()))
    };
    Ok(Programs {
        lictor: program("lictor")?,
        verify: program("lictor-verify")?,
    })
}

fn result(shown: &Shown, took: Duration, folder: &Path) -> String {
    let summary = &shown.summary;
    let held = summary.steps.iter().filter(|step| step.ok).count();
    format!(
        "\n{}\n{held} of {} steps shown in {:.0} s\nsummary  {}\nreport   {}\npack     {}\n",
        summary.table(),
        summary.steps.len(),
        took.as_secs_f64(),
        folder.join(demo::SUMMARY).display(),
        summary.report,
        summary.pack
    )
}

/// A reader who closes the pipe early has seen enough.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn keep(shown: &Shown) -> Result<()> {
    let Some(world) = &shown.world else {
        return Ok(());
    };
    print(&format!(
        "\n{}\nPress Enter to take it down.\n",
        world.how_to_enter()
    ))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

/// Where a step's name begins.
const INDENT: usize = 16;
/// Columns of a line.
const COLUMNS: usize = 100;

/// Breaks a text between its words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if INDENT + line.len() + 1 + word.len() <= COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Prints a line for each step, and on a terminal the time that the present one has taken.
struct Stage {
    terminal: bool,
    coloured: bool,
    clock: Option<(Sender<()>, std::thread::JoinHandle<()>)>,
}

/// How often the time on a terminal moves.
const TICK: Duration = Duration::from_millis(200);

impl Stage {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            terminal,
            coloured: terminal && std::env::var_os("NO_COLOR").is_none(),
            clock: None,
        }
    }

    fn stop_clock(&mut self) {
        if let Some((stop, thread)) = self.clock.take() {
            drop(stop);
            // A clock that panicked has shown less, which is all it can do.
            let _ = thread.join();
        }
    }
}

impl Audience for Stage {
    fn begins(&mut self, name: &str) {
        if !self.terminal {
            return;
        }
        let (stop, stopped) = channel::<()>();
        let name = name.to_owned();
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            loop {
                eprint!(
                    "\r\x1b[2K{:>5.1} s  {name} ...",
                    begin.elapsed().as_secs_f64()
                );
                if stopped.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                    eprint!("\r\x1b[2K");
                    return;
                }
            }
        });
        self.clock = Some((stop, thread));
    }

    fn ended(&mut self, step: &Step) {
        self.stop_clock();
        let (mark, colour) = if step.ok {
            ("ok    ", 32)
        } else {
            ("FAILED", 31)
        };
        let seconds = Duration::from_millis(step.took_ms).as_secs_f64();
        let mark = if self.coloured {
            format!("\x1b[{colour}m{mark}\x1b[0m")
        } else {
            mark.to_owned()
        };
        eprintln!("{mark} {seconds:>5.1} s  {}", step.name);
        for line in wrapped(&step.detail) {
            eprintln!("{:INDENT$}{line}", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_broken_between_words_and_a_long_word_is_not() {
        let room = COLUMNS - INDENT;
        let check = |words: &[usize], expected: &[usize]| {
            let words: Vec<_> = words.iter().map(|length| "x".repeat(*length)).collect();
            let lines = wrapped(&words.join(" "));
            let lengths: Vec<_> = lines.iter().map(String::len).collect();
            assert_eq!(lengths, expected);
        };
        check(&[], &[]);
        check(&[room / 2, room - room / 2 - 1], &[room]);
        check(&[room / 2, room - room / 2], &[room / 2, room - room / 2]);
        check(&[room + 1, 1], &[room + 1, 1]);
    }
}
