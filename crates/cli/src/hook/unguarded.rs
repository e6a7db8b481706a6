//! Guests that start or come while no agent answers: those whose owner chose that for a host
//! without protection, by the signed policy that the agent has left on its disk.

use crate::{CliError, files};
use lictor_policy::{Cause, Choice};
use lictor_types::GuestId;
use lictor_wire::kept::{BINDINGS, FLOOR, Kept, PASSED, PASSED_BYTES_MAX, Passed, RELEASE, TRUST};
use std::error::Error as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Whether something comes to run now, which the agent has to record when it is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// It is only asked whether it may.
    Question,
    /// Its devices are there.
    Start,
}

/// Lets a guest pass, or says why nobody answers.
pub(super) fn pass(
    (state, guest): (&Path, &GuestId),
    weight: Weight,
    silence: CliError,
    now_ms: u64,
) -> Result<(), CliError> {
    let kept = read(state)?;
    let choice = kept.choice(guest, Cause::HostUnprotected, now_ms);
    let choice = choice.map_err(|error| {
        let why = error.source().map(ToString::to_string).unwrap_or_default();
        CliError::file(state, format!("no agent answers, and {error}: {why}"))
    })?;
    match (choice, weight) {
        (Choice::AllowWithAlarm, Weight::Start) => note(state, guest, now_ms),
        (Choice::AllowWithAlarm, Weight::Question) => Ok(()),
        _ => Err(silence),
    }
}

fn read(state: &Path) -> Result<Kept, CliError> {
    let floor = state.join(FLOOR);
    Ok(Kept {
        trust: files::read_json(&state.join(TRUST), "a trust file")?,
        release: files::read_json(&state.join(RELEASE), "a signed release")?,
        floor: floor
            .exists()
            .then(|| files::read_json(&floor, "a release's number and digest"))
            .transpose()?,
        bindings: files::read_json(&state.join(BINDINGS), "signed bindings")?,
    })
}

/// What is not noted does not pass: the agent could not record it.
fn note(state: &Path, guest: &GuestId, at_ms: u64) -> Result<(), CliError> {
    let path = state.join(PASSED);
    let failed = |error: std::io::Error| CliError::io(&path, &error);
    let mut options = OpenOptions::new();
    let mut file = options
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    if file.metadata().map_err(failed)?.len() >= PASSED_BYTES_MAX {
        let what = format!(
            "it has {PASSED_BYTES_MAX} bytes, and nobody has recorded them; start the agent"
        );
        return Err(CliError::file(&path, what));
    }
    let guest = guest.clone();
    let mut line = serde_json::to_vec(&Passed { guest, at_ms }).expect("only string keys");
    line.push(b'\n');
    file.write_all(&line).map_err(failed)?;
    file.sync_all().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_noted_up_to_a_limit() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(PASSED);
        let guest = GuestId::new("batch").expect("a valid name");
        note(dir.path(), &guest, 7).expect("there is room");
        note(dir.path(), &guest, 8).expect("there is room");
        let line = |at_ms| format!("{{\"guest\":\"batch\",\"at_ms\":{at_ms}}}\n");
        let noted = std::fs::read_to_string(&path).expect("it was written");
        assert_eq!(noted, [line(7), line(8)].concat());
        for (bytes, passes) in [(PASSED_BYTES_MAX - 1, true), (PASSED_BYTES_MAX, false)] {
            std::fs::write(&path, vec![b'\n'; bytes as usize]).expect("written");
            let noted = note(dir.path(), &guest, 9);
            assert_eq!(noted.is_ok(), passes, "{bytes}: {noted:?}");
        }
    }

    #[test]
    fn without_what_an_agent_keeps_nothing_passes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let guest = GuestId::new("batch").expect("a valid name");
        let silence = CliError::file(dir.path(), "nobody answers");
        let refused = pass((dir.path(), &guest), Weight::Start, silence, 0);
        let error = refused.expect_err("nothing is signed there").to_string();
        assert!(error.contains(TRUST), "{error}");
    }
}
