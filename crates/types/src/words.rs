//! What is said of a packet, in the same words wherever it is explained: by the evaluator of a
//! policy text, by the tables of a release, by the program that a host has loaded.

use crate::{Direction, Reason, Verdict};

/// The rule that decides, or that none does.
#[must_use]
pub fn by(rule: Option<&str>) -> &str {
    rule.unwrap_or("no rule")
}

/// What happens, why and by which rule.
#[must_use]
pub fn said(verdict: Verdict, reason: Reason, rule: Option<&str>) -> String {
    format!("{verdict} ({reason}) by {}", by(rule))
}

/// What would happen, were it not for observe mode.
#[must_use]
pub fn would(verdict: Verdict, rule: Option<&str>) -> String {
    format!("in enforce mode {verdict} by {}", by(rule))
}

/// Which way a packet goes, as seen from the guest.
#[must_use]
pub const fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "from the guest",
        Direction::Ingress => "toward the guest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_told_with_its_reason_and_rule() {
        let allowed = said(Verdict::Allow, Reason::PolicyAllow, Some("pay/app-db"));
        assert_eq!(allowed, "allow (policy-allow) by pay/app-db");
        let denied = said(Verdict::Deny, Reason::DefaultDeny, None);
        assert_eq!(denied, "deny (default-deny) by no rule");
        assert_eq!(
            would(Verdict::Deny, None),
            "in enforce mode deny by no rule"
        );
    }
}
