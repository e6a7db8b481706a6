//! Evidence packs: the whole log and what it speaks of, in files that hold each other.

use super::App;
use crate::error::AppError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use lictor_audit::{Profile, Report};
use lictor_evidence::pack::{Draft, PackError, PackFile};
use lictor_evidence::{Entry, TrustPolicy};
use lictor_store::Tx;
use lictor_wire::api::Pack;
use std::collections::BTreeMap;

impl App {
    /// Logs the manifest of a pack, then builds it over the log that ends with that entry.
    pub(crate) fn pack(&self) -> Result<Pack, AppError> {
        let now_ms = self.now_ms();
        let mut state = self.lock()?;
        let (mut carried, logged) = state
            .store
            .read(|tx| Ok::<_, AppError>((carried(tx)?, tx.entries(0, tx.log_size()?)?)))?;
        carried.extend(self.report_over(&logged, now_ms)?.files());
        let trust = serde_json::to_vec_pretty(&self.trust)
            .map_err(|error| AppError::Internal(error.to_string()))?;
        carried.insert("trust.json".into(), file(trust));
        let policy = TrustPolicy::log_only(self.trust.manager.clone());
        let draft = Draft::new(carried, &policy).map_err(internal)?;
        state.change(now_ms, |_, journal| journal.add(draft.entry()))?;
        // The lock is still held: the entry just written is the last one, and it is signed over.
        let (entries, checkpoint) = state
            .store
            .read(|tx| Ok::<_, AppError>((tx.entries(0, tx.log_size()?)?, tx.checkpoint()?)))?;
        if entries.len() != logged.len() + 1 {
            let what = "the log changed while its report was made".to_owned();
            return Err(AppError::Internal(what));
        }
        let (_, checkpoint) = checkpoint
            .ok_or_else(|| AppError::Internal("the log has no signed checkpoint".into()))?;
        let files = draft.finish(&entries, &checkpoint).map_err(internal)?;
        let encode = |(path, bytes)| (path, STANDARD.encode::<Vec<u8>>(bytes));
        Ok(Pack {
            files: files.into_iter().map(encode).collect(),
        })
    }

    /// The report over everything logged so far. The entry that binds the pack comes after it.
    fn report_over(&self, logged: &[Vec<u8>], now_ms: u64) -> Result<Report, AppError> {
        let broken = |error| AppError::Internal(format!("a stored entry cannot be read: {error}"));
        let entries: Vec<Entry> = logged
            .iter()
            .map(|bytes| Entry::from_bytes(bytes))
            .collect::<Result<_, _>>()
            .map_err(broken)?;
        Report::new(&entries, &self.trust.manager, now_ms, Profile::default()).map_err(broken)
    }
}

fn internal(error: PackError) -> AppError {
    AppError::Internal(format!("the pack would not verify: {error}"))
}

fn file(bytes: Vec<u8>) -> PackFile {
    PackFile {
        bytes,
        entries: Vec::new(),
    }
}

/// The signed documents that entries speak of: releases and the hosts' newest checkpoints.
fn carried(tx: &Tx) -> Result<BTreeMap<String, PackFile>, AppError> {
    let mut carried = BTreeMap::new();
    for release in tx.releases()? {
        let path = format!("releases/{}.json", release.generation);
        carried.insert(path, file(release.envelope.into_bytes()));
    }
    for (host, log) in tx.host_logs()? {
        carried.insert(
            format!("hosts/{host}.checkpoint"),
            file(log.checkpoint.into_bytes()),
        );
    }
    Ok(carried)
}
