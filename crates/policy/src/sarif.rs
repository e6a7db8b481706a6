//! Diagnostics as SARIF 2.1.0 (OASIS), which code review tools show beside the changed lines.

use crate::{Diagnostic, Severity};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The log of one run of the parser.
#[must_use]
pub fn sarif(diagnostics: &[Diagnostic]) -> Value {
    let codes = diagnostics.iter().map(|one| one.code.as_str()).collect();
    sarif_log(&codes, diagnostics.iter().map(result).collect())
}

/// The log of one run that gave these results, each with the code of one rule.
#[must_use]
pub fn sarif_log(codes: &BTreeSet<&str>, results: Vec<Value>) -> Value {
    let rules: Vec<Value> = codes.iter().map(|code| json!({ "id": code })).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "lictor", "version": env!("CARGO_PKG_VERSION"), "rules": rules,
            } },
            // Section 3.14.17: columns count characters, as the diagnostics do.
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

/// A line of a file as a place of a result.
#[must_use]
pub fn sarif_place(file: &str, line: usize) -> Value {
    json!({ "physicalLocation": {
        "artifactLocation": { "uri": uri(file) },
        "region": { "startLine": line },
    } })
}

fn result(one: &Diagnostic) -> Value {
    let level = match one.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut text = one.message.clone();
    for more in [Some(one.expected.as_str()), one.help.as_deref()]
        .into_iter()
        .flatten()
    {
        if !more.is_empty() {
            text.push('\n');
            text.push_str(more);
        }
    }
    json!({
        "ruleId": one.code,
        "level": level,
        "message": { "text": text },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&one.file) },
            "region": {
                "startLine": one.span.line,
                "startColumn": one.column,
                "byteOffset": one.span.start,
                "byteLength": one.span.end.saturating_sub(one.span.start),
            },
        } }],
    })
}

/// A path as a relative URI reference (RFC 3986): what is not a path's plain character is escaped.
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes().fold(String::new(), |mut uri, byte| {
        match plain(byte) {
            true => uri.push(char::from(byte)),
            false => uri.push_str(&format!("%{byte:02X}")),
        }
        uri
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_is_a_result_at_its_place() {
        let text = "policy \"p\" version 1\nset a = 10.0.0.1/8\n";
        let (_, diagnostics) = crate::parse("a dir/p.lictor", text.as_bytes());
        let log = sarif(&diagnostics);
        let result = &log["runs"][0]["results"][0];
        assert_eq!(result["ruleId"], "host-bits");
        assert_eq!(result["level"], "error");
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%20dir/p.lictor");
        assert_eq!(place["region"]["startLine"], 2);
        assert_eq!(place["region"]["startColumn"], 9);
        assert_eq!(
            log["runs"][0]["tool"]["driver"]["rules"][0]["id"],
            "host-bits"
        );
        assert_eq!(sarif(&[])["runs"][0]["results"], json!([]));
    }
}
