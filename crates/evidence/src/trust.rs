//! C2SP tlog-policy: which log is believed, and which witnesses must have seen its checkpoint.

use crate::{EvidenceError, KeyName, Note, VerifyKey, WitnessKey};
use std::{fmt, str::FromStr};

/// Lines of one policy file.
pub const TRUST_LINES_MAX: usize = 256;
const NONE: &str = "none";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    Witness(WitnessKey),
    Group { needed: usize, members: Vec<String> },
}

/// The log's key and the quorum of witnesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPolicy {
    log: VerifyKey,
    members: Vec<(String, Member)>,
    quorum: String,
}

impl TrustPolicy {
    /// One log, no witness.
    #[must_use]
    pub fn log_only(log: VerifyKey) -> Self {
        Self {
            log,
            members: Vec::new(),
            quorum: NONE.into(),
        }
    }

    /// One log of which all these witnesses must have seen the checkpoint.
    #[must_use]
    pub fn witnessed(log: VerifyKey, witnesses: Vec<WitnessKey>) -> Self {
        let mut policy = Self::log_only(log);
        let names: Vec<_> = (1..=witnesses.len())
            .map(|n| format!("witness-{n}"))
            .collect();
        if names.is_empty() {
            return policy;
        }
        policy.members = names
            .iter()
            .cloned()
            .zip(witnesses.into_iter().map(Member::Witness))
            .collect();
        let group = Member::Group {
            needed: names.len(),
            members: names,
        };
        policy.quorum = "witnesses".into();
        policy.members.push((policy.quorum.clone(), group));
        policy
    }

    /// The log's key.
    #[must_use]
    pub const fn log(&self) -> &VerifyKey {
        &self.log
    }

    /// The witnesses.
    pub fn witnesses(&self) -> impl Iterator<Item = &WitnessKey> {
        self.members.iter().filter_map(|(_, member)| match member {
            Member::Witness(key) => Some(key),
            Member::Group { .. } => None,
        })
    }

    /// Whether the log signed the note and enough witnesses saw it. Stricter than signed-note asks:
    /// a signature by a key that the policy does not name is refused, not passed over, because in a
    /// pack every byte must mean something.
    ///
    /// # Errors
    /// [`EvidenceError::Note`] names the signature or the quorum.
    pub fn check(&self, note: &Note) -> Result<(), EvidenceError> {
        if !note.is_signed_by(&self.log) {
            return Err(EvidenceError::Note(format!(
                "not signed by {}",
                self.log.id()
            )));
        }
        for (index, signature) in note.signatures().iter().enumerate() {
            let alone = note.only(index);
            let log = alone.is_signed_by(&self.log);
            if !log && !self.witnesses().any(|key| alone.cosigned_at(key).is_some()) {
                let name: &KeyName = &signature.name;
                return Err(EvidenceError::Note(format!(
                    "signature of {name} is not valid"
                )));
            }
        }
        if self.quorum != NONE && !self.holds(&self.quorum, note) {
            let text = format!("the quorum {} of witnesses is not reached", self.quorum);
            return Err(EvidenceError::Note(text));
        }
        Ok(())
    }

    fn holds(&self, name: &str, note: &Note) -> bool {
        let member = self.members.iter().find(|(known, _)| known == name);
        match member.map(|(_, member)| member) {
            Some(Member::Witness(key)) => note.cosigned_at(key).is_some(),
            Some(Member::Group { needed, members }) => {
                members.iter().filter(|name| self.holds(name, note)).count() >= *needed
            }
            None => false,
        }
    }
}

fn bad(line: usize, text: impl fmt::Display) -> EvidenceError {
    EvidenceError::Key(format!("trust policy, line {line}: {text}"))
}

impl FromStr for TrustPolicy {
    type Err = EvidenceError;
    fn from_str(text: &str) -> Result<Self, EvidenceError> {
        let (mut log, mut quorum) = (None, None);
        let mut members: Vec<(String, Member)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            if number > TRUST_LINES_MAX {
                return Err(bad(
                    number,
                    format!("at most {TRUST_LINES_MAX} lines are read"),
                ));
            }
            let words: Vec<&str> = line
                .split([' ', '\t'])
                .filter(|word| !word.is_empty())
                .collect();
            let known = |name: &str| members.iter().any(|(known, _)| known == name);
            match words.as_slice() {
                [] => {}
                [word, ..] if word.starts_with('#') => {}
                ["log", key] | ["log", key, _] if log.is_none() => log = Some(key.parse()?),
                ["witness", name, key] | ["witness", name, key, _] if !known(name) => {
                    members.push(((*name).into(), Member::Witness(key.parse()?)));
                }
                ["group", name, needed, rest @ ..] if !known(name) => {
                    let group = parse_group(needed, rest, known).ok_or_else(|| {
                        bad(
                            number,
                            "expected: group NAME all|any|K and names defined above",
                        )
                    })?;
                    members.push(((*name).into(), group));
                }
                ["quorum", name] if quorum.is_none() && (*name == NONE || known(name)) => {
                    quorum = Some((*name).to_owned());
                }
                _ => return Err(bad(number, "expected one log, witness, group or quorum")),
            }
        }
        let log = log.ok_or_else(|| bad(1, "no log is named"))?;
        let quorum = quorum.ok_or_else(|| bad(1, "no quorum is named"))?;
        Ok(Self {
            log,
            members,
            quorum,
        })
    }
}

fn parse_group(needed: &str, rest: &[&str], known: impl Fn(&str) -> bool) -> Option<Member> {
    let needed = match needed {
        "all" => rest.len(),
        "any" => 1,
        number => number.parse().ok()?,
    };
    let distinct = rest
        .iter()
        .enumerate()
        .all(|(n, name)| !rest[..n].contains(name));
    let sound = distinct && rest.iter().all(|name| known(name));
    let members = rest.iter().map(|name| (*name).to_owned()).collect();
    (sound && (1..=rest.len()).contains(&needed)).then_some(Member::Group { needed, members })
}

impl fmt::Display for TrustPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "log {}", self.log)?;
        for (name, member) in &self.members {
            match member {
                Member::Witness(key) => writeln!(f, "witness {name} {key}")?,
                Member::Group { needed, members } => {
                    writeln!(f, "group {name} {needed} {}", members.join(" "))?;
                }
            }
        }
        writeln!(f, "quorum {}", self.quorum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SigningKey;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn key(name: &str, seed: u64) -> SigningKey {
        SigningKey::generate(
            KeyName::new(name).expect("valid"),
            &mut StdRng::seed_from_u64(seed),
        )
    }

    fn note(witnesses: &[&SigningKey]) -> Note {
        let mut note = Note::new("log\n1\nroot\n").expect("valid");
        note.sign(&key("log", 1));
        witnesses
            .iter()
            .for_each(|key| note.cosign(key, 1_700_000_000));
        note
    }

    #[test]
    fn every_named_witness_must_have_seen_the_checkpoint() {
        let (one, two, other) = (key("one", 2), key("two", 3), key("other", 4));
        let witnesses = vec![WitnessKey(one.verify_key()), WitnessKey(two.verify_key())];
        let policy = TrustPolicy::witnessed(key("log", 1).verify_key(), witnesses);
        let policy: TrustPolicy = policy.to_string().parse().expect("its own text");
        for (signers, holds) in [
            (vec![&one, &two], true),
            (vec![&one], false),
            (vec![], false),
            (vec![&one, &two, &other], false),
        ] {
            assert_eq!(policy.check(&note(&signers)).is_ok(), holds, "{signers:?}");
        }
        let alone = TrustPolicy::log_only(key("log", 1).verify_key());
        assert!(alone.check(&note(&[])).is_ok());
        assert!(alone.check(&note(&[&one])).is_err());
        assert!(
            TrustPolicy::log_only(one.verify_key())
                .check(&note(&[]))
                .is_err()
        );
    }

    #[test]
    fn a_policy_that_says_nothing_or_two_things_is_refused() {
        let log = format!("log {}\n", key("log", 1).verify_key());
        let witness = format!("witness w {}\n", WitnessKey(key("w", 2).verify_key()));
        for bad in [
            String::new(),
            log.clone(),
            format!("{log}{log}quorum none\n"),
            format!("{log}quorum w\n"),
            format!("{log}{witness}group g 2 w\nquorum g\n"),
            format!("{log}{witness}group g 2 w w\nquorum g\n"),
            format!("{log}quorum none\nquorum none\n"),
            format!("{log}quorum none\nshrug\n"),
        ] {
            assert!(bad.parse::<TrustPolicy>().is_err(), "{bad:?}");
        }
        let good = format!("# ours\n{log}{witness}group g any w\nquorum g\n");
        assert!(good.parse::<TrustPolicy>().is_ok());
    }
}
