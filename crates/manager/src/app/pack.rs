//! Evidence packs: the whole log and what it speaks of, in files that hold each other.

use super::App;
use crate::error::AppError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use lictor_evidence::TrustPolicy;
use lictor_evidence::pack::{Draft, PackError, PackFile};
use lictor_store::Tx;
use lictor_wire::api::Pack;
use std::collections::BTreeMap;

impl App {
    /// Logs the manifest of a pack, then builds it over the log that ends with that entry.
    pub(crate) fn pack(&self) -> Result<Pack, AppError> {
        let now_ms = self.now_ms();
        let mut state = self.lock()?;
        let mut carried = state.store.read(carried)?;
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
        let (_, checkpoint) = checkpoint
            .ok_or_else(|| AppError::Internal("the log has no signed checkpoint".into()))?;
        let files = draft.finish(&entries, &checkpoint).map_err(internal)?;
        let encode = |(path, bytes)| (path, STANDARD.encode::<Vec<u8>>(bytes));
        Ok(Pack {
            files: files.into_iter().map(encode).collect(),
        })
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
