//! Words, texts and marks, one at a time: the whole text is never held as tokens.

use crate::Span;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// A keyword, a name, `key:value`, `tcp/443`, a prefix, a number or a date.
    Word(&'a str),
    /// The inside of `"..."`.
    Text(&'a str),
    /// A quotation mark without its partner on the same line.
    Unclosed,
    /// Characters that begin nothing.
    Unknown(&'a str),
    Open,
    Close,
    Left,
    Right,
    And,
    Equals,
    Comma,
    Semicolon,
    Colon,
    /// The text is over.
    End,
}

/// A token and its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind<'a>,
    pub(crate) span: Span,
    /// Whether it is the first on its line.
    pub(crate) first: bool,
}

/// Reads tokens.
#[derive(Debug, Clone)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    position: usize,
    line: usize,
    first: bool,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        // Editors on some systems begin a file with a byte order mark.
        let position = if text.starts_with('\u{feff}') {
            '\u{feff}'.len_utf8()
        } else {
            0
        };
        Self {
            text,
            position,
            line: 1,
            first: true,
        }
    }

    /// Goes to the end: nothing more is read.
    pub(crate) fn stop(&mut self) {
        self.position = self.text.len();
    }

    /// The next token; [`Kind::End`] for ever after the last.
    pub(crate) fn next(&mut self) -> Token<'a> {
        self.skip_blank();
        let rest = &self.text[self.position..];
        let (kind, length) = scan(rest);
        let (start, end) = (self.position, self.position + length);
        self.position = end;
        let first = std::mem::take(&mut self.first);
        Token {
            kind,
            span: Span {
                start,
                end,
                line: self.line,
            },
            first,
        }
    }

    fn skip_blank(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.position) {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.first = true;
                }
                b' ' | b'\t' | b'\r' => {}
                b'#' => {
                    let rest = &bytes[self.position..];
                    let length = rest.iter().position(|byte| *byte == b'\n');
                    self.position += length.unwrap_or(rest.len());
                    continue;
                }
                _ => return,
            }
            self.position += 1;
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-./:@+*".contains(&byte)
}

fn scan(rest: &str) -> (Kind<'_>, usize) {
    let Some(byte) = rest.bytes().next() else {
        return (Kind::End, 0);
    };
    let mark = match byte {
        b'{' => Kind::Open,
        b'}' => Kind::Close,
        b'(' => Kind::Left,
        b')' => Kind::Right,
        b'&' => Kind::And,
        b'=' => Kind::Equals,
        b',' => Kind::Comma,
        b';' => Kind::Semicolon,
        b'"' => return quoted(rest),
        byte if is_word(byte) => return word(rest),
        _ => {
            // Only what is read elsewhere ends it: a form feed is white space, but no blank here.
            let known = |c: char| c.is_ascii_alphanumeric() || " \t\r\n{}()&=,;\"#".contains(c);
            let length = rest.find(known).unwrap_or(rest.len());
            return (Kind::Unknown(&rest[..length]), length);
        }
    };
    (mark, 1)
}

fn quoted(rest: &str) -> (Kind<'_>, usize) {
    let inner = &rest[1..];
    match inner.find(['"', '\n']) {
        Some(length) if inner.as_bytes()[length] == b'"' => {
            (Kind::Text(&inner[..length]), length + 2)
        }
        Some(length) => (Kind::Unclosed, length + 1),
        None => (Kind::Unclosed, rest.len()),
    }
}

/// A colon that stands alone at an end of a word is a mark of its own (`label zone: string`), but
/// two are part of an IPv6 prefix (`2001:db8::`).
fn word(rest: &str) -> (Kind<'_>, usize) {
    let length = rest
        .bytes()
        .position(|byte| !is_word(byte))
        .unwrap_or(rest.len());
    let run = &rest[..length];
    if run.starts_with(':') && !run.starts_with("::") {
        return (Kind::Colon, 1);
    }
    let run = match run.strip_suffix(':') {
        Some(trimmed) if !trimmed.ends_with(':') => trimmed,
        _ => run,
    };
    (Kind::Word(run), run.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let mut lexer = Lexer::new(text);
        let mut found = Vec::new();
        loop {
            let token = lexer.next();
            if token.kind == Kind::End {
                break;
            }
            found.push(match token.kind {
                Kind::Word(word) => word.to_owned(),
                Kind::Text(text) => format!("\"{text}\""),
                kind => format!("{kind:?}"),
            });
        }
        assert_eq!(found.join(" | "), expected, "{text:?}");
    }

    #[test]
    fn words_keep_their_colons_and_lose_the_mark_at_the_end() {
        check("zone:cde", "zone:cde");
        check("label zone: string", "label | zone | Colon | string");
        check("zone : string", "zone | Colon | string");
        check("zone :string", "zone | Colon | string");
        check(
            "2001:db8::/32 2001:db8:: ::/0",
            "2001:db8::/32 | 2001:db8:: | ::/0",
        );
        check("a#b\r\nc", "a | c");
        check("\u{feff}policy", "policy");
        check(
            "a\u{c} b\u{b}",
            "a | Unknown(\"\\u{c}\") | b | Unknown(\"\\u{b}\")",
        );
        check("\"a b\" \"c", "\"a b\" | Unclosed");
        check("\"a\nb", "Unclosed | b");
        check("a $% b é", "a | Unknown(\"$%\") | b | Unknown(\"é\")");
        check(
            "{}()&=,;",
            "Open | Close | Left | Right | And | Equals | Comma | Semicolon",
        );
    }
}
