//! One altered byte anywhere in a pack is found, and the file or the entry is named.

use lictor_evidence::pack::{self, CHECKPOINT, Draft, Files, MANIFEST, PackError, PackFile, TRUST};
use lictor_evidence::{
    Body, Entry, KeyName, KeyRole, Log, MemoryStorage, SigningKey, Source, TrustPolicy, tile,
};
use lictor_types::HostId;
use rand::{SeedableRng as _, rngs::StdRng};
use std::collections::BTreeMap;

fn key(name: &str, seed: u64) -> SigningKey {
    SigningKey::generate(
        KeyName::new(name).expect("valid"),
        &mut StdRng::seed_from_u64(seed),
    )
}

fn manager() -> SigningKey {
    key("lictor.test/manager", 1)
}

fn host() -> HostId {
    HostId::new("h1").expect("valid")
}

struct Writer {
    log: Log<MemoryStorage>,
    host_log: Log<MemoryStorage>,
    manager_seq: u64,
}

impl Writer {
    fn new() -> Self {
        let open = |key: &SigningKey| {
            Log::open(MemoryStorage::default(), key.verify_key(), None).expect("new")
        };
        Self {
            log: open(&manager()),
            host_log: open(&key("h1", 2)),
            manager_seq: 0,
        }
    }

    fn manager(&mut self, body: Body) {
        let entry = Entry::new(Source::Manager, self.manager_seq, 1_000, body);
        self.manager_seq += 1;
        self.log
            .append(&entry.to_bytes().expect("fits"))
            .expect("appends");
    }

    fn host(&mut self, text: &str) {
        let body = Body::Alarm {
            subject: "vnic 7".into(),
            text: text.into(),
        };
        let entry = Entry::new(Source::Host(host()), self.host_log.size(), 1_000, body);
        let bytes = entry.to_bytes().expect("fits");
        self.host_log.append(&bytes).expect("appends");
        self.log.append(&bytes).expect("appends");
    }

    fn anchor(&mut self) {
        let checkpoint = self.host_log.checkpoint(&key("h1", 2)).expect("signs");
        self.manager(Body::CheckpointAnchored {
            of: host(),
            checkpoint,
        });
    }

    fn finish(mut self) -> Files {
        let file = |text: &str| PackFile {
            bytes: text.into(),
            entries: vec![1],
        };
        let files = BTreeMap::from([
            ("report.json".to_owned(), file("{}")),
            ("releases/1.json".to_owned(), file("release")),
        ]);
        let trust = TrustPolicy::log_only(manager().verify_key());
        let draft = Draft::new(files, &trust).expect("usable paths");
        self.manager(draft.entry());
        let checkpoint = self.log.checkpoint(&manager()).expect("signs");
        draft
            .finish(&self.log.entries().expect("in memory"), &checkpoint)
            .expect("verifies")
    }
}

fn small() -> Files {
    let mut writer = Writer::new();
    let key = key("h1", 2).verify_key();
    writer.manager(Body::KeyEnrolled {
        role: KeyRole::Agent,
        for_host: Some(host()),
        key,
    });
    writer.host("first");
    writer.host("second");
    writer.anchor();
    writer.finish()
}

/// Which entry the byte of a bundle belongs to, its length included.
fn entry_at(bundle: &[u8], offset: usize) -> u64 {
    let mut end = 0;
    for (index, entry) in (0..).zip(tile::split_bundle(bundle).0) {
        end += 2 + entry.len();
        if offset < end {
            return index;
        }
    }
    panic!("byte {offset} lies in no entry")
}

fn flip(files: &Files, path: &str, offset: usize, mask: u8) -> Files {
    let mut altered = files.clone();
    altered.get_mut(path).expect("present")[offset] ^= mask;
    altered
}

#[test]
fn every_altered_byte_is_found_and_its_file_or_entry_is_named() {
    let files = small();
    pack::verify(&files, Some(&manager().verify_key())).expect("untouched");
    let mut tried = 0;
    for (path, bytes) in &files {
        for offset in 0..bytes.len() {
            let error = pack::verify(&flip(&files, path, offset, 1), None)
                .expect_err("an altered byte may not verify");
            match error {
                PackError::File { path: named, .. } => {
                    assert_eq!(&named, path, "byte {offset} of {path}");
                    assert!(
                        !path.contains("entries"),
                        "{path} byte {offset}: name the entry"
                    );
                }
                PackError::Entry {
                    index,
                    path: named,
                    what,
                    ..
                } => {
                    assert_eq!(&named, path, "byte {offset} of {path}");
                    assert_eq!(index, entry_at(bytes, offset), "byte {offset} of {path}");
                    assert!(!what.is_empty());
                }
            }
            tried += 1;
        }
    }
    assert_eq!(tried, files.values().map(Vec::len).sum::<usize>());
}

#[test]
fn an_altered_entry_is_named_by_index_kind_host_and_number() {
    let files = small();
    let path = "tile/entries/000.p/5";
    let text = String::from_utf8_lossy(&files[path]).into_owned();
    // Only ASCII and two length bytes lie before it, so that offsets agree.
    let offset = files[path].windows(6).position(|part| part == b"second");
    let offset = offset.unwrap_or_else(|| panic!("no second entry in {text}"));
    let error = pack::verify(&flip(&files, path, offset, 1), None).expect_err("altered");
    assert_eq!(
        error.to_string(),
        "entry 2 (alarm of h1, seq 1) in tile/entries/000.p/5: altered: its hash is not the one \
         under the signed checkpoint"
    );
}

#[test]
fn a_missing_or_added_file_is_named() {
    let files = small();
    for path in files.keys() {
        let mut altered = files.clone();
        altered.remove(path);
        let error = pack::verify(&altered, None)
            .expect_err("a file is missing")
            .to_string();
        assert!(error.starts_with(&format!("{path}: missing")), "{error}");
    }
    let mut added = files;
    added.insert("extra.txt".into(), Vec::new());
    let error = pack::verify(&added, None)
        .expect_err("a file too many")
        .to_string();
    assert!(error.starts_with("extra.txt: not listed"), "{error}");
}

#[test]
fn a_pack_of_another_log_is_refused_by_the_key_that_the_assessor_holds() {
    let error = pack::verify(&small(), Some(&key("lictor.test/manager", 9).verify_key()));
    assert!(matches!(error, Err(PackError::File { path, .. }) if path == TRUST));
}

#[test]
fn a_cut_off_checkpoint_or_manifest_is_named() {
    for path in [CHECKPOINT, MANIFEST, TRUST] {
        let mut files = small();
        files.get_mut(path).expect("present").pop();
        let error = pack::verify(&files, None).expect_err("cut off").to_string();
        assert!(error.starts_with(path), "{error}");
    }
}

#[test]
fn a_log_of_several_bundles_verifies_and_names_an_entry_beyond_the_first() {
    let mut writer = Writer::new();
    for number in 0..300 {
        writer.host(&format!("entry {number}"));
    }
    let files = writer.finish();
    assert_eq!(
        pack::verify(&files, None).expect("untouched").entries.len(),
        301
    );
    let path = "tile/entries/001.p/45";
    let error = pack::verify(&flip(&files, path, 10, 1), None).expect_err("altered");
    assert!(error.to_string().starts_with("entry 256 "), "{error}");
}

#[test]
fn paths_that_leave_the_pack_or_take_its_own_names_are_refused() {
    let trust = TrustPolicy::log_only(manager().verify_key());
    for bad in [
        "../x",
        "/x",
        "a//b",
        ".hidden",
        "tile/0/000",
        MANIFEST,
        CHECKPOINT,
        TRUST,
        "a b",
    ] {
        let file = PackFile {
            bytes: Vec::new(),
            entries: Vec::new(),
        };
        let draft = Draft::new(BTreeMap::from([(bad.to_owned(), file)]), &trust);
        assert!(draft.is_err(), "{bad:?} must be refused");
    }
}

#[test]
fn a_gap_in_a_host_log_leaves_the_pack_genuine_and_is_reported() {
    let mut writer = Writer::new();
    writer.host("first");
    let body = Body::Alarm {
        subject: "x".into(),
        text: "y".into(),
    };
    let skipped = Entry::new(Source::Host(host()), 5, 1_000, body);
    writer
        .log
        .append(&skipped.to_bytes().expect("fits"))
        .expect("appends");
    let verified = pack::verify(&writer.finish(), None).expect("genuine");
    assert_eq!(verified.chains[0].faults.len(), 1);
}
