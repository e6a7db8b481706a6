//! Completions and manual pages, out of the one definition of each command.

use crate::{CliError, output};
use clap::Subcommand;
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;

/// What is made of the definitions of all commands.
#[derive(Debug, Clone, Subcommand)]
pub enum HelpArgs {
    /// Print the completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual pages, one for each command.
    Man {
        /// The directory that they go to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Makes completions or manual pages of a program's definition.
///
/// # Errors
/// [`CliError`] if they cannot be written.
pub fn help(
    args: &HelpArgs,
    mut program: clap::Command,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    match args {
        HelpArgs::Completions { shell } => {
            let mut text = Vec::new();
            let name = program.get_name().to_owned();
            clap_complete::generate(*shell, &mut program, name, &mut text);
            output::print(out, &text)
        }
        HelpArgs::Man { out: dir } => {
            let failed = |error: std::io::Error| CliError::io(dir, &error);
            std::fs::create_dir_all(dir).map_err(failed)?;
            clap_mangen::generate_to(program, dir).map_err(failed)
        }
    }
}
