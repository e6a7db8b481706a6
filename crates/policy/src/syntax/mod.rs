//! The text of a policy as a tree of statements, with its comments, before any name is looked up:
//! what the formatter prints and what the JSON form is. Whoever asks what a policy means reads it
//! with [`crate::parse`] instead.

mod form;
mod grammar;
mod print;
mod read;

pub use grammar::{grammar, schema};
pub use read::read;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Its statements, in order.
    pub statements: Vec<Statement>,
    /// Comments behind the last statement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comments: Vec<String>,
}

/// A statement, or a rule of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Statement {
    /// The word it begins with: `label`, `tier`, `allow`, ...
    pub statement: String,
    /// Comments above it and inside of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comments: Vec<String>,
    /// A comment behind it on its last line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// Whether an empty line stands above it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gap: bool,
    /// Rules of a tier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Statement>,
    /// Comments behind the last rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules_comments: Vec<String>,
    /// What it says, by name.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Value>,
}

/// What stands at a place of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A keyword is there.
    Flag(bool),
    /// A word, a text, or an expression as it is written.
    Text(String),
    /// Several words.
    List(Vec<String>),
}

/// Why a tree is no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// The text has errors: see the diagnostics of [`crate::parse`].
    #[error("line {line}: {what}; `lictor policy check` says all that is wrong")]
    Text {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The bytes are not the JSON form.
    #[error("not the JSON form of a policy: {0}")]
    Json(String),
    /// A statement of the JSON form is not one of the language.
    #[error("statement {place}: {what}")]
    Statement {
        /// Which, from 1; a rule with its tier before it.
        place: String,
        /// What is wrong and what was expected.
        what: String,
    },
}

impl Document {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// [`SyntaxError`] names the statement.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SyntaxError> {
        let json = |error: serde_json::Error| SyntaxError::Json(error.to_string());
        let document: Self = serde_json::from_slice(bytes).map_err(json)?;
        // What is printed must read as what it was made of: no field can smuggle in a statement.
        let again = read(&document.text()?)?;
        for (index, (one, other)) in document
            .statements
            .iter()
            .zip(&again.statements)
            .enumerate()
        {
            if one != other {
                return Err(SyntaxError::Statement {
                    place: (index + 1).to_string(),
                    what: "its fields do not read as the statement that they would print".into(),
                });
            }
        }
        if document != again {
            let what = "the statements do not read as what they would print".into();
            return Err(SyntaxError::Json(what));
        }
        Ok(document)
    }

    /// The JSON form.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a tree has only string keys");
        text.push('\n');
        text
    }

    /// The text in its canonical layout.
    ///
    /// # Errors
    /// [`SyntaxError::Statement`] if a statement or field is not one of the language.
    pub fn text(&self) -> Result<String, SyntaxError> {
        print::document(self)
    }
}

/// Whether bytes are the JSON form and not the text: no statement begins with a brace.
#[must_use]
pub fn is_json(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{')
}

/// The canonical layout of a text. It keeps every comment, and formatting twice changes nothing.
///
/// # Errors
/// [`SyntaxError::Text`] if the text is not sound.
pub fn format(text: &str) -> Result<String, SyntaxError> {
    read(text)?.text()
}

#[cfg(test)]
mod tests {
    use super::form::{RULES, STATEMENTS};
    use crate::parse::{ACTIONS, CLAUSES, STATEMENTS as PARSED};

    #[test]
    fn the_table_of_forms_has_every_word_that_the_parser_reads_and_no_other() {
        let words: Vec<&str> = STATEMENTS.iter().map(|form| form.word).collect();
        assert_eq!(words, PARSED);
        let actions: Vec<&str> = RULES.iter().map(|form| form.word).collect();
        assert_eq!(actions, ACTIONS);
        for form in RULES {
            let clauses: Vec<&str> = form.clauses.iter().map(|(word, _)| *word).collect();
            assert_eq!(clauses, CLAUSES);
        }
    }
}
