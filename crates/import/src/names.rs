//! Names of other systems as names of the language.

use lictor_policy::NAME_BYTES_MAX;
use lictor_types::Digest;
use std::collections::BTreeMap;

/// Hexadecimal digits that tell apart what would get one name.
const DIGITS: usize = 6;

fn valid(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    begins && text.len() <= NAME_BYTES_MAX && text.bytes().all(plain)
}

/// The text itself if it can be a name; otherwise what is like it, with a part of its digest. The
/// same text always gives the same name, and two texts different ones.
pub(crate) fn word(text: &str) -> String {
    if valid(text) {
        return text.to_owned();
    }
    let digest = Digest::of(text.as_bytes()).to_string();
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let plain: String = text.chars().map(plain).collect();
    let plain = plain.trim_matches(['-', '_', '.']);
    let plain: String = plain.chars().take(NAME_BYTES_MAX - DIGITS - 2).collect();
    let head = if plain.is_empty() { "x" } else { &plain };
    format!("{head}-{}", &digest[..DIGITS])
}

/// A label's name made of a prefix and a key of the source.
pub(crate) fn label(prefix: &str, key: &str) -> String {
    word(&format!("{prefix}.{key}"))
}

/// Names that are given one after the other, each once.
#[derive(Debug, Default)]
pub(crate) struct Unique(BTreeMap<String, usize>);

impl Unique {
    pub(crate) fn name(&mut self, text: &str) -> String {
        let mut name = word(text);
        while self.0.contains_key(&name) {
            let count = self.0.entry(word(text)).or_default();
            *count += 1;
            let end = format!(".{}", *count + 1);
            let mut head = word(text);
            head.truncate(NAME_BYTES_MAX - end.len());
            name = format!("{head}{end}");
        }
        self.0.insert(name.clone(), 0);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_has_a_name_of_its_own() {
        assert_eq!(word("web-1"), "web-1");
        assert_eq!(label("pod", "app"), "pod.app");
        assert!(word("app.kubernetes.io/name").starts_with("app.kubernetes.io-name-"));
        assert_ne!(word("a/b"), word("a:b"));
        for text in ["", "/", "é", &"x".repeat(200), "-a", "New Virtual Machine"] {
            assert!(valid(&word(text)), "{text:?}: {}", word(text));
        }
        let mut names = Unique::default();
        assert_eq!(
            ["a", "a", "a", "b"].map(|name| names.name(name)),
            ["a", "a.2", "a.3", "b"]
        );
        let long = "x".repeat(NAME_BYTES_MAX);
        assert_ne!(names.name(&long), names.name(&long));
    }
}
