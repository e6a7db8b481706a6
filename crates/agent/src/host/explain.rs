//! What the loaded program would do with a packet, in words.

use super::Host;
use crate::AgentError;
use lictor_datapath::Explanation;
use lictor_policy::Compiled;
use lictor_types::{AddressEntry, Decision, Direction, IdentityId, Probe, RuleId, VnicName, words};
use lictor_wire::local::{Explained, ExplainedStep};

/// Label sets that stand for an identity in words.
const LABEL_SETS_MAX: usize = 3;

impl Host {
    /// Runs a second instance of a vnic's loaded program on a packet that nobody sends. Nothing is
    /// counted, reported or remembered.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if no vnic of this name is attached or nothing is loaded.
    pub fn explain(
        &self,
        name: &VnicName,
        probe: &Probe,
        direction: Option<Direction>,
    ) -> Result<Explained, AgentError> {
        let statuses = self.datapath.vnics()?;
        let status = statuses.iter().find(|status| status.spec.name == *name);
        let status = status.ok_or_else(|| {
            AgentError::Refused(format!(
                "vnic {name} is not attached here; see `lictor host status`"
            ))
        })?;
        let Some(release) = &self.release else {
            let what = "no release is loaded; publish one and see `lictor host status`";
            return Err(AgentError::Refused(what.into()));
        };
        let policy = &release.release().policy;
        let found = self.datapath.explain(status.spec.vnic, probe, direction)?;
        let names = Names { policy };
        Ok(Explained {
            vnic: name.clone(),
            packet: *probe,
            direction: found.direction,
            verdict: found.answer.verdict,
            reason: found.answer.reason,
            rule: rule(found.answer.rule),
            rule_name: names.rule(found.answer.rule),
            would: found.answer.would,
            steps: names.steps(&found, &status.state.to_string(), probe),
        })
    }
}

fn rule(id: RuleId) -> Option<RuleId> {
    (id != RuleId::DEFAULT).then_some(id)
}

struct Names<'a> {
    policy: &'a Compiled,
}

impl Names<'_> {
    fn rule(&self, id: RuleId) -> Option<String> {
        let known = self.policy.rule(rule(id)?);
        Some(known.map_or_else(|| id.to_string(), |rule| rule.name.clone()))
    }

    fn identity(&self, id: IdentityId) -> String {
        let Some(identity) = self.policy.identity(id) else {
            return format!("{id} (the world)");
        };
        let sets = identity.labels.iter().take(LABEL_SETS_MAX).map(|labels| {
            let pairs = labels.iter().map(|(name, value)| format!("{name}={value}"));
            pairs.collect::<Vec<_>>().join(",")
        });
        let sets: Vec<_> = sets.collect();
        match sets.as_slice() {
            [] => {
                let selectors: Vec<_> = self.policy.selectors_of(identity).collect();
                format!("{id} ({})", selectors.join(", "))
            }
            sets => format!("{id} ({})", sets.join(" or ")),
        }
    }

    fn end(&self, row: Option<AddressEntry>) -> String {
        match row {
            None => format!("in no table: {}", self.identity(IdentityId::WORLD)),
            Some(row) => {
                let whose = match row.vnic {
                    Some(vnic) => format!("vnic {vnic}, binding {}", row.epoch),
                    None => "outside every guest".into(),
                };
                format!(
                    "{} is {whose}, identity {}",
                    row.prefix,
                    self.identity(row.identity)
                )
            }
        }
    }

    fn decision(&self, decision: Option<Decision>) -> String {
        let Some(decision) = decision else {
            return "none: the default deny".into();
        };
        let name = self.rule(decision.rule);
        let by = words::by(name.as_deref());
        let would = decision.would.map_or_else(String::new, |would| {
            let rule = self.rule(would.rule);
            format!("; {}", words::would(would.verdict, rule.as_deref()))
        });
        format!("{} by {by}{would}", decision.verdict)
    }

    fn steps(&self, found: &Explanation, state: &str, probe: &Probe) -> Vec<ExplainedStep> {
        let way = words::way(found.direction);
        let session = found.session.map_or_else(
            || "none: policy is asked".into(),
            |session| {
                format!(
                    "{:?}, opened {}, {} packets, {} s left, by {}",
                    session.state,
                    words::way(session.opened),
                    session.packets[0] + session.packets[1],
                    session.expires_in_ms / 1_000,
                    words::by(self.rule(session.rule).as_deref())
                )
            },
        );
        let atom = found.atom.map_or_else(
            || "none: no rule names it".into(),
            |atom| atom.0.to_string(),
        );
        let (class, port) = probe.service();
        let answer = &found.answer;
        let by = self.rule(answer.rule);
        [
            ("packet", format!("{probe}, {way}")),
            ("vnic", state.into()),
            ("own end", self.end(found.local)),
            ("other end", self.end(found.remote)),
            ("session", session),
            ("service", format!("{class} {port}, atom {atom}")),
            ("decision", self.decision(found.decision)),
            (
                "program",
                words::said(answer.verdict, answer.reason, by.as_deref()),
            ),
        ]
        .map(|(step, says)| ExplainedStep {
            step: step.into(),
            says,
        })
        .into()
    }
}
