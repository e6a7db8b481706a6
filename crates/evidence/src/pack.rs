//! Evidence packs: everything that an assessor needs, in files that hold each other.
//!
//! Each byte is covered once: entries and tiles by the signed checkpoint, `manifest.json` by the
//! log's last entry, every other file by the manifest. The leaf hashes travel along, so that an
//! altered entry is named and not merely noticed.

use crate::chain::{HostChain, host_chains};
use crate::merkle::leaf_hash;
use crate::{Body, Checkpoint, Entry, LogProof, Note, Tree, TrustPolicy, VerifyKey};
use crate::{tile, tile::bundle_path};
use lictor_types::Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The files of a pack by their path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What is in the pack and what it hashes to.
pub const MANIFEST: &str = "manifest.json";
/// The signed checkpoint over all entries.
pub const CHECKPOINT: &str = "checkpoint";
/// Whose signatures are believed.
pub const TRUST: &str = "policy.txt";
/// The proof that the manifest is in the log.
pub const MANIFEST_PROOF: &str = "proofs/manifest.tlog-proof";
/// Files of one pack beside entries and tiles.
pub const PACK_FILES_MAX: usize = 65_536;

const FORMAT: &str = "lictor-pack/1";
const TILES: &str = "tile/";

/// A file that is carried along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFile {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The entries that it restates.
    pub entries: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    files: Vec<ManifestFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    path: String,
    sha256: Digest,
    entries: Vec<u64>,
}

/// Which file or entry is not what was logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A file is altered, missing or does not belong.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// An entry is altered.
    #[error("entry {index} ({what}) in {path}: {why}")]
    Entry {
        /// Its index in the log.
        index: u64,
        /// Kind, writer and number, as far as they can be read.
        what: String,
        /// The bundle that holds it.
        path: String,
        /// What is wrong.
        why: String,
    },
}

fn fault(path: impl Into<String>, why: impl ToString) -> PackError {
    PackError::File {
        path: path.into(),
        why: why.to_string(),
    }
}

/// A pack whose manifest is not logged yet. Append [`Draft::entry`], sign a checkpoint, then call
/// [`Draft::finish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    files: Files,
    manifest: Vec<u8>,
}

impl Draft {
    /// Lists the files and the trust policy in a manifest.
    ///
    /// # Errors
    /// [`PackError::File`] if a path is taken, reserved or leaves the directory.
    pub fn new(
        carried: BTreeMap<String, PackFile>,
        trust: &TrustPolicy,
    ) -> Result<Self, PackError> {
        let policy = PackFile {
            bytes: trust.to_string().into_bytes(),
            entries: Vec::new(),
        };
        let mut listed = Vec::new();
        let mut files = Files::new();
        for (path, file) in carried.into_iter().chain([(TRUST.to_owned(), policy)]) {
            check_path(&path)?;
            if files.contains_key(&path) || files.len() >= PACK_FILES_MAX {
                return Err(fault(path, "the name is reserved, or the pack is full"));
            }
            let sha256 = Digest::of(&file.bytes);
            listed.push(ManifestFile {
                path: path.clone(),
                sha256,
                entries: file.entries,
            });
            files.insert(path, file.bytes);
        }
        let manifest = Manifest {
            format: FORMAT.into(),
            files: listed,
        };
        let manifest =
            serde_json::to_vec_pretty(&manifest).expect("a manifest has only string keys");
        Ok(Self { files, manifest })
    }

    /// What must be appended to the log as its last entry.
    #[must_use]
    pub fn entry(&self) -> Body {
        Body::PackBuilt {
            manifest: Digest::of(&self.manifest),
        }
    }

    /// The pack. `entries` are all entries of the log, `checkpoint` the signed one over them.
    ///
    /// # Errors
    /// [`PackError`] if the pack would not verify: none is handed out that does not.
    pub fn finish(self, entries: &[Vec<u8>], checkpoint: &str) -> Result<Files, PackError> {
        let Self {
            mut files,
            manifest,
        } = self;
        files.insert(MANIFEST.into(), manifest);
        files.insert(CHECKPOINT.into(), checkpoint.as_bytes().to_vec());
        let tree = Tree::from_leaves(entries.iter().map(|entry| leaf_hash(entry)));
        let chunks = entries.chunks(tile::TILE_WIDTH as usize);
        for (chunk, (index, width)) in chunks.zip(tile::widths(tree.len())) {
            let path = bundle_path(index, width);
            let bytes = tile::encode_bundle(chunk).map_err(|error| fault(&path, error))?;
            files.insert(path, bytes);
        }
        files.extend(tile::tiles(&tree));
        let proof = manifest_proof(&tree, checkpoint)?;
        files.insert(MANIFEST_PROOF.into(), proof.into_bytes());
        verify(&files, None)?;
        Ok(files)
    }
}

fn manifest_proof(tree: &Tree, checkpoint: &str) -> Result<String, PackError> {
    let index = tree
        .len()
        .checked_sub(1)
        .ok_or_else(|| fault(CHECKPOINT, "the log is empty"))?;
    let hashes = tree
        .inclusion(index, tree.len())
        .map_err(|error| fault(MANIFEST_PROOF, error))?;
    Ok(LogProof {
        index,
        hashes,
        checkpoint: checkpoint.into(),
    }
    .to_string())
}

/// Paths stay inside the directory and out of the way of what the pack itself writes.
fn check_path(path: &str) -> Result<(), PackError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let sound = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    let reserved =
        [MANIFEST, CHECKPOINT, MANIFEST_PROOF].contains(&path) || path.starts_with(TILES);
    if reserved || path.len() > 255 || !path.split('/').all(sound) {
        return Err(fault(path, "not a usable path in a pack"));
    }
    Ok(())
}

/// A pack in which every byte was accounted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The key that signed the checkpoint. If the caller named none, it came out of the pack, and
    /// its fingerprint must still be compared with one learnt elsewhere.
    pub key: VerifyKey,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Every entry; the position is the index.
    pub entries: Vec<Entry>,
    /// The hosts' own logs, with their faults: a gap does not make the pack false, it is a finding.
    pub chains: Vec<HostChain>,
}

/// Accounts for every byte of a pack.
///
/// # Errors
/// [`PackError`] names the file or the entry that is not what was logged.
pub fn verify(files: &Files, trusted: Option<&VerifyKey>) -> Result<Verified, PackError> {
    let trust = read_trust(files, trusted)?;
    let checkpoint = read_checkpoint(files, &trust)?;
    let (tree, entries) = read_entries(files, &checkpoint)?;
    let tiles = check_tiles(files, &tree)?;
    let listed = check_manifest(files, &entries)?;
    let text = text_of(files, CHECKPOINT)?;
    if text_of(files, MANIFEST_PROOF)? != manifest_proof(&tree, text)? {
        return Err(fault(
            MANIFEST_PROOF,
            "not the proof of the manifest under this checkpoint",
        ));
    }
    let own = [MANIFEST, CHECKPOINT, MANIFEST_PROOF];
    for path in files.keys() {
        if !listed.contains(path) && !tiles.contains(path) && !own.contains(&path.as_str()) {
            return Err(fault(
                path,
                "not listed in the manifest; it is no part of the evidence",
            ));
        }
    }
    let chains = host_chains(&entries).map_err(|error| fault(TILES, error))?;
    Ok(Verified {
        key: trust.log().clone(),
        checkpoint,
        entries,
        chains,
    })
}

fn bytes_of<'a>(files: &'a Files, path: &str) -> Result<&'a [u8], PackError> {
    files
        .get(path)
        .map(Vec::as_slice)
        .ok_or_else(|| fault(path, "missing"))
}

fn text_of<'a>(files: &'a Files, path: &str) -> Result<&'a str, PackError> {
    std::str::from_utf8(bytes_of(files, path)?).map_err(|_| fault(path, "not UTF-8 text"))
}

fn read_trust(files: &Files, trusted: Option<&VerifyKey>) -> Result<TrustPolicy, PackError> {
    let trust: TrustPolicy = text_of(files, TRUST)?
        .parse()
        .map_err(|error| fault(TRUST, error))?;
    if let Some(key) = trusted.filter(|key| *key != trust.log()) {
        let (found, expected) = (trust.log().id(), key.id());
        return Err(fault(
            TRUST,
            format!("it trusts {found}; you trust {expected}"),
        ));
    }
    Ok(trust)
}

/// If the signature fails, either the checkpoint or the keys were altered: the manifest's hash of
/// the keys tells which, though at this point it is only believed for naming the file.
fn read_checkpoint(files: &Files, trust: &TrustPolicy) -> Result<Checkpoint, PackError> {
    let text = text_of(files, CHECKPOINT)?;
    let checked = text.parse::<Note>().and_then(|note| {
        trust.check(&note)?;
        Checkpoint::verify(text, trust.log())
    });
    checked.map_err(|error| {
        let listed = files
            .get(MANIFEST)
            .and_then(|bytes| parse_manifest(bytes).ok());
        let trust_altered = listed.is_some_and(|manifest| {
            let found = files.get(TRUST).map(|bytes| Digest::of(bytes));
            manifest
                .files
                .iter()
                .any(|file| file.path == TRUST && Some(file.sha256) != found)
        });
        fault(if trust_altered { TRUST } else { CHECKPOINT }, error)
    })
}

type Log = (Tree, Vec<Entry>);

fn read_entries(files: &Files, checkpoint: &Checkpoint) -> Result<Log, PackError> {
    let (mut tree, mut raw) = (Tree::default(), Vec::new());
    for (index, width) in tile::widths(checkpoint.size) {
        let path = bundle_path(index, width);
        let (entries, rest) = tile::split_bundle(bytes_of(files, &path)?);
        entries.iter().for_each(|entry| tree.push(leaf_hash(entry)));
        let whole = rest.is_empty() && entries.len() as u64 == width;
        raw.extend(entries.iter().map(|entry| (path.clone(), *entry)));
        if !whole {
            return Err(name_altered(files, checkpoint, &raw, &path));
        }
    }
    if tree.root() != checkpoint.root {
        return Err(name_altered(files, checkpoint, &raw, CHECKPOINT));
    }
    let decode = |(index, (path, bytes)): (u64, &(String, &[u8]))| {
        Entry::from_bytes(bytes).map_err(|error| PackError::Entry {
            index,
            what: Entry::describe(bytes),
            path: path.clone(),
            why: format!("logged as it is, but not understood: {error}"),
        })
    };
    Ok((tree, (0..).zip(&raw).map(decode).collect::<Result<_, _>>()?))
}

/// Finds the first entry whose hash is not the leaf that the tiles carry.
fn name_altered(
    files: &Files,
    checkpoint: &Checkpoint,
    raw: &[(String, &[u8])],
    otherwise: &str,
) -> PackError {
    let why = "altered: its hash is not the one under the signed checkpoint".to_owned();
    let mut leaves = Vec::new();
    for (index, width) in tile::widths(checkpoint.size) {
        let tile = files.get(&tile::tile_path(0, index, width));
        match tile.map(|bytes| tile::decode_tile(bytes)) {
            Some(Ok(hashes)) => leaves.extend(hashes),
            _ => break,
        }
    }
    let genuine = Tree::from_leaves(leaves.iter().copied()).root() == checkpoint.root;
    for (index, ((path, bytes), leaf)) in (0..).zip(raw.iter().zip(&leaves)) {
        if leaf_hash(bytes) != *leaf {
            let why = if genuine {
                why
            } else {
                format!("{why}; the leaf hashes differ too")
            };
            let what = Entry::describe(bytes);
            return PackError::Entry {
                index,
                what,
                path: path.clone(),
                why,
            };
        }
    }
    let (index, size) = (raw.len() as u64, checkpoint.size);
    if index < size {
        let (what, path) = ("unreadable".into(), otherwise.to_owned());
        return PackError::Entry {
            index,
            what,
            path,
            why: "cut off or its length altered".into(),
        };
    }
    fault(otherwise, "the entries are not those that were signed")
}

fn check_tiles(files: &Files, tree: &Tree) -> Result<BTreeSet<String>, PackError> {
    let mut expected = tile::tiles(tree);
    for (path, bytes) in &expected {
        if bytes_of(files, path)? != bytes {
            return Err(fault(
                path,
                "not the hashes of the entries under the signed checkpoint",
            ));
        }
    }
    let bundles = tile::widths(tree.len()).map(|(index, width)| bundle_path(index, width));
    expected.extend(bundles.map(|path| (path, Vec::new())));
    Ok(expected.into_keys().collect())
}

fn parse_manifest(bytes: &[u8]) -> Result<Manifest, PackError> {
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|error| fault(MANIFEST, error))?;
    if manifest.format != FORMAT {
        return Err(fault(
            MANIFEST,
            format!("format {}; expected {FORMAT}", manifest.format),
        ));
    }
    Ok(manifest)
}

fn check_manifest(files: &Files, entries: &[Entry]) -> Result<BTreeSet<String>, PackError> {
    let bytes = bytes_of(files, MANIFEST)?;
    let logged = match entries.last().map(|entry| &entry.body) {
        Some(Body::PackBuilt { manifest }) => *manifest,
        _ => {
            return Err(fault(
                CHECKPOINT,
                "the log's last entry does not bind a manifest",
            ));
        }
    };
    if logged != Digest::of(bytes) {
        return Err(fault(
            MANIFEST,
            "altered: the log's last entry has another digest",
        ));
    }
    let mut listed = BTreeSet::new();
    for file in parse_manifest(bytes)?.files {
        check_path(&file.path)?;
        if Digest::of(bytes_of(files, &file.path)?) != file.sha256 {
            return Err(fault(
                file.path,
                "altered: the manifest has another SHA-256",
            ));
        }
        listed.insert(file.path);
    }
    if !listed.contains(TRUST) {
        return Err(fault(MANIFEST, format!("{TRUST} is not listed")));
    }
    Ok(listed)
}
