//! How results look: tables and colour for people, JSON for programs.

use crate::CliError;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For reviews of changes: SARIF, of commands that find faults in files.
    Sarif,
}

/// The argument that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Printing {
    /// How the result is printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Whether a terminal shows colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Words of good and bad are coloured.
    On,
    /// Plain text.
    Off,
}

impl Colour {
    /// Colours only on a terminal, and only if `NO_COLOR` is unset or empty (no-color.org).
    #[must_use]
    pub fn of(terminal: bool, no_color: Option<&OsStr>) -> Self {
        if terminal && no_color.is_none_or(OsStr::is_empty) {
            Self::On
        } else {
            Self::Off
        }
    }
}

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Head,
    Good,
    Doubt,
    Bad,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Head => "1",
            Self::Good => "32",
            Self::Doubt => "33",
            Self::Bad => "31",
        }
    }

    pub(crate) const fn good_if(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// A text with its tone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Names and texts come from others: what would steer a terminal is made visible.
    pub(crate) fn toned(tone: Tone, text: impl ToString) -> Self {
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let text = text.to_string().chars().map(shown).collect();
        Self { text, tone }
    }

    pub(crate) fn optional(value: Option<impl ToString>) -> Self {
        value.map_or_else(|| Self::toned(Tone::Plain, "-"), |value| Self::from(value))
    }

    pub(crate) fn yes_no(yes: bool) -> Self {
        Self::toned(Tone::good_if(yes), if yes { "yes" } else { "no" })
    }

    pub(crate) fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn write(&self, text: &mut String, colour: Colour) {
        if colour == Colour::Off || self.tone == Tone::Plain {
            text.push_str(&self.text);
            return;
        }
        let _ = write!(text, "\x1b[{}m{}\x1b[0m", self.tone.code(), self.text);
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(Tone::Plain, text)
    }
}

enum Block {
    Line(Vec<Cell>),
    Rows(Vec<Vec<Cell>>),
    Text(String),
}

/// What people read: lines, fields and tables, from top to bottom.
#[derive(Default)]
pub(crate) struct Page(Vec<Block>);

impl Page {
    pub(crate) fn line(mut self, text: impl Into<Cell>) -> Self {
        self.0.push(Block::Line(vec![text.into()]));
        self
    }

    /// Lines that somebody else has laid out and made safe for a terminal.
    pub(crate) fn text(mut self, text: impl Into<String>) -> Self {
        self.0.push(Block::Text(text.into()));
        self
    }

    /// A heading with an empty line above it.
    pub(crate) fn section(mut self, text: &str) -> Self {
        self.0.push(Block::Line(Vec::new()));
        self.0
            .push(Block::Line(vec![Cell::toned(Tone::Head, text)]));
        self
    }

    /// Names and values, one pair a line.
    pub(crate) fn fields<const N: usize>(mut self, fields: [(&str, Cell); N]) -> Self {
        let rows = fields.map(|(name, value)| vec![Cell::toned(Tone::Head, name), value]);
        self.0.push(Block::Rows(rows.into()));
        self
    }

    /// A table with a heading; of an empty one the line says so.
    pub(crate) fn table<const N: usize>(
        mut self,
        head: [&str; N],
        rows: impl IntoIterator<Item = [Cell; N]>,
    ) -> Self {
        let head = head.map(|name| Cell::toned(Tone::Head, name)).to_vec();
        let rows: Vec<Vec<Cell>> = rows.into_iter().map(Vec::from).collect();
        if rows.is_empty() {
            return self.line("none");
        }
        self.0.push(Block::Rows([vec![head], rows].concat()));
        self
    }

    /// All of this below all of another one.
    pub(crate) fn after(mut self, mut above: Self) -> Self {
        above.0.append(&mut self.0);
        above
    }

    pub(crate) fn render(&self, colour: Colour) -> String {
        let mut text = String::new();
        for block in &self.0 {
            match block {
                Block::Line(cells) => write_row(&mut text, cells, &[], colour),
                Block::Text(lines) => {
                    text.push_str(lines.trim_end_matches('\n'));
                    text.push('\n');
                }
                Block::Rows(rows) => {
                    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
                    let width = |column: usize| {
                        let cells = rows.iter().filter_map(|row| row.get(column));
                        cells.map(Cell::width).max().unwrap_or_default()
                    };
                    let widths: Vec<usize> = (0..columns).map(width).collect();
                    for row in rows {
                        write_row(&mut text, row, &widths, colour);
                    }
                }
            }
        }
        text
    }
}

pub(crate) fn write_row(text: &mut String, cells: &[Cell], widths: &[usize], colour: Colour) {
    for (column, cell) in cells.iter().enumerate() {
        cell.write(text, colour);
        if column + 1 < cells.len() {
            let width = widths.get(column).copied().unwrap_or_default();
            text.push_str(&" ".repeat(width.saturating_sub(cell.width()) + 2));
        }
    }
    text.push('\n');
}

/// Whether the program ends with 0 or with 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// What was asked is done or holds.
    Done,
    /// It was answered, and the answer is no.
    No,
}

/// What a command gives, for both kinds of readers.
pub(crate) struct Answer {
    pub(crate) page: Page,
    pub(crate) value: Value,
    pub(crate) ending: Ending,
    /// Faults in files, if the command is one that finds them.
    sarif: Option<Value>,
    /// Rows that are written one by one, instead of the page and the value.
    rows: Option<Box<dyn Rows>>,
}

/// What is too long to be held: it is written as it is found.
pub(crate) trait Rows {
    /// For people.
    fn table(&self, out: &mut dyn Write, colour: Colour) -> Result<(), CliError>;
    /// For programs.
    fn json(&self, out: &mut dyn Write) -> Result<(), CliError>;
}

impl Answer {
    pub(crate) fn rows(rows: Box<dyn Rows>) -> Self {
        let mut answer = Self::new(Page::default(), &Value::Null);
        answer.rows = Some(rows);
        answer
    }

    pub(crate) fn new(page: Page, value: &impl Serialize) -> Self {
        let value = serde_json::to_value(value).expect("results have only string keys");
        let ending = Ending::Done;
        Self {
            page,
            value,
            ending,
            sarif: None,
            rows: None,
        }
    }

    pub(crate) fn sarif(mut self, sarif: Value) -> Self {
        self.sarif = Some(sarif);
        self
    }

    pub(crate) fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    /// Writes it. A reader who closes the pipe early has seen enough; that is no failure.
    pub(crate) fn write(
        &self,
        out: &mut dyn Write,
        (output, colour): (Output, Colour),
    ) -> Result<(), CliError> {
        let (Some(rows), Output::Table | Output::Json) = (&self.rows, output) else {
            return print(out, self.text(output, colour)?.as_bytes());
        };
        let mut out = BufWriter::new(out);
        let written = match output {
            Output::Json => rows.json(&mut out),
            _ => rows.table(&mut out, colour),
        };
        match written.and_then(|()| out.flush().map_err(CliError::Output)) {
            Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    pub(crate) fn text(&self, output: Output, colour: Colour) -> Result<String, CliError> {
        let value = match output {
            Output::Table => return Ok(self.page.render(colour)),
            Output::Json => &self.value,
            Output::Sarif => self.sarif.as_ref().ok_or_else(|| {
                let what = "sarif is for commands that find faults in files, such as `lictor \
                            policy check`; expected table or json here";
                CliError::argument("--output", what)
            })?,
        };
        Ok(format!("{value:#}\n"))
    }
}

/// Writes a text. A reader who closes the pipe early has seen enough; that is no failure.
pub(crate) fn print(out: &mut dyn Write, bytes: &[u8]) -> Result<(), CliError> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let rows = [
            [Cell::from("db"), Cell::yes_no(true)],
            [Cell::from("a-long-name"), Cell::yes_no(false)],
        ];
        let page = Page::default().table(["guest", "protected"], rows);
        let expected = "guest        protected\ndb           yes\na-long-name  no\n";
        assert_eq!(page.render(Colour::Off), expected);
        let coloured = page.render(Colour::On);
        assert!(coloured.contains("\x1b[32myes\x1b[0m\n"), "{coloured:?}");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let page = Page::default().line("a\x1b[2Jb\rc");
        assert_eq!(page.render(Colour::On), "a\u{fffd}[2Jb\u{fffd}c\n");
    }

    #[test]
    fn colour_needs_a_terminal_and_no_objection() {
        let check = |terminal, no_color: Option<&str>, expected| {
            assert_eq!(Colour::of(terminal, no_color.map(OsStr::new)), expected);
        };
        check(true, None, Colour::On);
        check(true, Some(""), Colour::On);
        check(true, Some("1"), Colour::Off);
        check(false, None, Colour::Off);
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is() {
        struct Broken(io::ErrorKind);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(print(&mut Broken(io::ErrorKind::BrokenPipe), b"x").is_ok());
        assert!(print(&mut Broken(io::ErrorKind::StorageFull), b"x").is_err());
    }
}
