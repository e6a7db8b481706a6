//! What only SQLite can get wrong: locks, a full disk, damage, a newer schema.

use lictor_store::{Options, Store, StoreError, Tx};
use std::path::{Path, PathBuf};

struct Fresh {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn fresh() -> Fresh {
    let dir = tempfile::tempdir().expect("a temporary directory");
    Fresh {
        path: dir.path().join("store.db"),
        _dir: dir,
    }
}

fn open(path: &Path, options: Options) -> Result<Store, StoreError> {
    Store::open(path, options)
}

#[test]
fn a_lock_held_elsewhere_is_named_as_such() {
    let fresh = fresh();
    let options = Options {
        busy_wait_ms: 10,
        ..Options::default()
    };
    let mut store = open(&fresh.path, options).expect("the store opens");
    let mut other = open(&fresh.path, options).expect("the store opens twice");
    let result = store.write(|_| {
        let inner = other.write(|tx| tx.append_entries(0, &[vec![0]]));
        assert!(matches!(inner, Err(StoreError::Busy)), "{inner:?}");
        Ok::<_, StoreError>(())
    });
    assert!(result.is_ok());
    other
        .write(|tx| tx.append_entries(0, &[vec![0]]))
        .expect("the lock is free again");
}

#[test]
fn a_full_store_refuses_and_keeps_what_it_has() {
    let fresh = fresh();
    let options = Options {
        pages_max: 64,
        ..Options::default()
    };
    let mut store = open(&fresh.path, options).expect("the store opens");
    let mut stored = 0;
    let error = loop {
        match store.write(|tx| tx.append_entries(stored, &[vec![0; 4_096]])) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(
            stored < 64,
            "64 pages can't hold 64 entries of one page and the rest"
        );
    };
    assert!(matches!(error, StoreError::Full), "{error:?}");
    assert!(stored > 0);
    drop(store);
    let mut store = open(&fresh.path, Options::default()).expect("the store opens again");
    let size = store.read(Tx::log_size).expect("the store can be read");
    assert_eq!(
        size, stored,
        "every acknowledged entry is there and no other"
    );
}

#[test]
fn a_damaged_file_is_refused() {
    for offset in [0, 4_096] {
        let fresh = fresh();
        let mut store = open(&fresh.path, Options::default()).expect("the store opens");
        store
            .write(|tx| tx.append_entries(0, &[vec![7; 9_000]]))
            .expect("stored");
        drop(store);
        let mut bytes = std::fs::read(&fresh.path).expect("the file is there");
        bytes[offset..offset + 512].fill(0xa5);
        std::fs::write(&fresh.path, bytes).expect("the file can be written");
        let error = open(&fresh.path, Options::default()).expect_err("damage must be seen");
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "offset {offset}: {error:?}"
        );
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let fresh = fresh();
    drop(open(&fresh.path, Options::default()).expect("the store opens"));
    let raw = rusqlite::Connection::open(&fresh.path).expect("the file opens");
    raw.pragma_update(None, "user_version", 99)
        .expect("the number can be set");
    drop(raw);
    let error = open(&fresh.path, Options::default()).expect_err("it must be refused");
    assert!(
        matches!(error, StoreError::Newer { found: 99, .. }),
        "{error:?}"
    );
}
