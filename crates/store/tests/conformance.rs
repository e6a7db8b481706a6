//! What every back end must do. Each case takes a fresh store and a way to open it again, so that
//! another back end runs the same list.

use lictor_store::{
    AttestationRow, BindingRow, CertificateRow, DepartureRow, HostLog, Options, PlacementRow,
    ReleaseRow, Store, StoreError, TokenRow, Tx,
};
use lictor_types::{Digest, Epoch, Generation, GuestId, HostId, VnicId};
use std::path::Path;

type Case = (&'static str, fn(&Path));

const CASES: &[Case] = &[
    ("a failed transaction stores nothing", failed_transaction),
    (
        "what was stored is there after opening again",
        survives_reopening,
    ),
    (
        "each generation and each digest is stored once",
        releases_are_unique,
    ),
    (
        "the statement of freshness takes the place of the one before",
        freshness,
    ),
    (
        "the newest binding of each guest is in force and all are kept",
        bindings,
    ),
    (
        "the newest attestation of each vnic is in force",
        attestations,
    ),
    ("a token is used once", tokens),
    ("a revoked certificate stays revoked", certificates),
    ("entries are appended without a gap", entries),
    ("a host's entries are the manager's entries", host_entries),
    (
        "an unprotected interval is opened and closed once",
        unprotected,
    ),
    ("a move is listed once under its key", moves),
    ("the latest departure of a guest is kept", departures),
    ("numbers beyond 2^63 - 1 are refused", range),
    (
        "the revision grows with releases and bindings only",
        revision,
    ),
];

#[test]
fn every_case_holds_on_sqlite() {
    for (name, case) in CASES {
        println!("{name}");
        let dir = tempfile::tempdir().expect("a temporary directory");
        case(&dir.path().join("store.db"));
    }
}

fn open(path: &Path) -> Store {
    Store::open(path, Options::default()).expect("the store opens")
}

fn write<T>(store: &mut Store, body: impl FnOnce(&Tx) -> Result<T, StoreError>) -> T {
    store.write(body).expect("the transaction is stored")
}

fn read<T>(store: &mut Store, body: impl FnOnce(&Tx) -> Result<T, StoreError>) -> T {
    store.read(body).expect("the store can be read")
}

fn guest(name: &str) -> GuestId {
    GuestId::new(name).expect("a valid name")
}

fn host(name: &str) -> HostId {
    HostId::new(name).expect("a valid name")
}

fn release(generation: u64, payload: &str) -> ReleaseRow {
    let digest = Digest::of(payload.as_bytes());
    ReleaseRow {
        generation: Generation(generation),
        digest,
        envelope: payload.into(),
    }
}

fn binding(epoch: u64, name: &str) -> BindingRow {
    BindingRow {
        epoch: Epoch(epoch),
        guest: guest(name),
        envelope: format!("{name}@{epoch}"),
    }
}

fn failed_transaction(path: &Path) {
    let mut store = open(path);
    let result = store.write(|tx| {
        tx.add_release(&release(1, "one"))?;
        tx.append_entries(0, &[b"entry".to_vec()])?;
        Err::<(), _>(StoreError::Exists)
    });
    assert!(matches!(result, Err(StoreError::Exists)));
    assert_eq!(read(&mut store, Tx::newest_release), None);
    assert_eq!(read(&mut store, Tx::log_size), 0);
    assert_eq!(read(&mut store, Tx::revision), 0);
}

fn survives_reopening(path: &Path) {
    let mut store = open(path);
    write(&mut store, |tx| {
        tx.append_entries(0, &[b"entry".to_vec()])?;
        tx.set_checkpoint(1, "note")?;
        tx.set_host_key(&host("one"), Some("key"))?;
        tx.set_report(&host("one"), "report", 7)
    });
    drop(store);
    let mut store = open(path);
    assert_eq!(read(&mut store, Tx::checkpoint), Some((1, "note".into())));
    let row = read(&mut store, |tx| tx.host(&host("one"))).expect("the host is known");
    assert_eq!(
        (row.key.as_deref(), row.reported_ms),
        (Some("key"), Some(7))
    );
}

fn releases_are_unique(path: &Path) {
    let mut store = open(path);
    write(&mut store, |tx| tx.add_release(&release(2, "two")));
    write(&mut store, |tx| tx.add_release(&release(1, "one")));
    for taken in [release(2, "other"), release(3, "two")] {
        let result = store.write(|tx| tx.add_release(&taken));
        assert!(matches!(result, Err(StoreError::Exists)), "{taken:?}");
    }
    let newest = read(&mut store, Tx::newest_release);
    assert_eq!(newest, Some(release(2, "two")));
    assert_eq!(
        read(&mut store, Tx::releases),
        [release(1, "one"), release(2, "two")]
    );
}

fn freshness(path: &Path) {
    let mut store = open(path);
    let read = |store: &mut Store| store.read(Tx::freshness).expect("the store can be read");
    assert_eq!(read(&mut store), None);
    for said in ["first", "second"] {
        let revision = store.read(Tx::revision).expect("the store can be read");
        store
            .write(|tx| tx.set_freshness(said))
            .expect("it is stored");
        assert_eq!(read(&mut store).as_deref(), Some(said));
        let after = store.read(Tx::revision).expect("the store can be read");
        assert!(after > revision, "agents hear of it");
    }
    assert_eq!(read(&mut open(path)).as_deref(), Some("second"));
}

fn bindings(path: &Path) {
    let mut store = open(path);
    for row in [binding(1, "web"), binding(2, "db"), binding(3, "web")] {
        write(&mut store, |tx| tx.add_binding(&row));
    }
    let taken = store.write(|tx| tx.add_binding(&binding(2, "web")));
    assert!(matches!(taken, Err(StoreError::Exists)));
    let newest = read(&mut store, Tx::newest_bindings);
    assert_eq!(newest, [binding(2, "db"), binding(3, "web")]);
    assert_eq!(read(&mut store, Tx::all_bindings).len(), 3);
}

fn attestations(path: &Path) {
    let mut store = open(path);
    let row = |vnic, sequence| AttestationRow {
        vnic: VnicId(vnic),
        sequence,
        envelope: format!("{vnic}/{sequence}"),
    };
    for (vnic, sequence) in [(1, 1), (2, 1), (1, 2)] {
        write(&mut store, |tx| tx.add_attestation(&row(vnic, sequence)));
    }
    let newest = read(&mut store, Tx::newest_attestations);
    assert_eq!(newest, [row(1, 2), row(2, 1)]);
    let taken = store.write(|tx| tx.add_attestation(&row(1, 1)));
    assert!(matches!(taken, Err(StoreError::Exists)));
}

fn tokens(path: &Path) {
    let mut store = open(path);
    let token = TokenRow {
        digest: [7; 32],
        role: "agent".into(),
        name: "one".into(),
        expires_ms: 10,
        used_ms: None,
    };
    write(&mut store, |tx| tx.add_token(&token));
    assert!(
        write(&mut store, |tx| tx.use_token(&[7; 32], 5)),
        "the first use counts"
    );
    assert!(
        !write(&mut store, |tx| tx.use_token(&[7; 32], 6)),
        "the second does not"
    );
    assert!(
        !write(&mut store, |tx| tx.use_token(&[8; 32], 6)),
        "nor does an unknown one"
    );
    assert_eq!(
        read(&mut store, Tx::tokens),
        [TokenRow {
            used_ms: Some(5),
            ..token
        }]
    );
    assert_eq!(write(&mut store, |tx| tx.forget_tokens(10)), 0);
    assert_eq!(write(&mut store, |tx| tx.forget_tokens(11)), 1);
}

fn certificates(path: &Path) {
    let mut store = open(path);
    let row = CertificateRow {
        fingerprint: "ab".into(),
        role: "auditor".into(),
        name: "eve".into(),
        not_after_ms: 9,
        revoked_ms: None,
    };
    write(&mut store, |tx| tx.add_certificate(&row));
    assert_eq!(
        read(&mut store, |tx| tx.certificate("ab")),
        Some(row.clone())
    );
    assert_eq!(read(&mut store, |tx| tx.certificate("cd")), None);
    assert_eq!(
        write(&mut store, |tx| tx.revoke_certificates("auditor", "eve", 3)),
        1
    );
    assert_eq!(
        write(&mut store, |tx| tx.revoke_certificates("auditor", "eve", 4)),
        0
    );
    let revoked = CertificateRow {
        revoked_ms: Some(3),
        ..row
    };
    assert_eq!(read(&mut store, |tx| tx.certificate("ab")), Some(revoked));
}

fn entries(path: &Path) {
    let mut store = open(path);
    let batch = [b"a".to_vec(), b"b".to_vec()];
    write(&mut store, |tx| tx.append_entries(0, &batch));
    for first in [0, 1, 3] {
        let result = store.write(|tx| tx.append_entries(first, &batch));
        assert!(
            matches!(result, Err(StoreError::Gap { expected: 2, found }) if found == first),
            "{result:?}"
        );
    }
    write(&mut store, |tx| tx.append_entries(2, &[b"c".to_vec()]));
    assert_eq!(
        read(&mut store, |tx| tx.entries(1, 5)),
        [b"b".to_vec(), b"c".to_vec()]
    );
    assert_eq!(read(&mut store, |tx| tx.entries(0, 1)), [b"a".to_vec()]);
}

fn host_entries(path: &Path) {
    let mut store = open(path);
    let one = host("one");
    let log = |next, note: &str| HostLog {
        next,
        checkpoint: note.into(),
    };
    write(&mut store, |tx| {
        tx.append_entries(0, &[b"own".to_vec(), b"h0".to_vec(), b"h1".to_vec()])?;
        tx.advance_host_log(&one, 1, &log(2, "first"))?;
        tx.append_entries(3, &[b"own".to_vec(), b"h2".to_vec()])?;
        tx.advance_host_log(&one, 4, &log(3, "second"))
    });
    let found = read(&mut store, |tx| tx.host_entries(&one, 1, 9));
    assert_eq!(found, [b"h1".to_vec(), b"h2".to_vec()]);
    assert_eq!(
        read(&mut store, |tx| tx.host_log(&one)),
        Some(log(3, "second"))
    );
    assert_eq!(read(&mut store, |tx| tx.host_log(&host("two"))), None);
    assert_eq!(
        read(&mut store, Tx::host_logs),
        [("one".into(), log(3, "second"))]
    );
}

fn unprotected(path: &Path) {
    let mut store = open(path);
    let row = |since_ms| PlacementRow {
        guest: guest("web"),
        host: host("bare"),
        since_ms,
        error_ms: 1,
    };
    assert!(write(&mut store, |tx| tx.open_unprotected(&row(5))));
    assert!(
        !write(&mut store, |tx| tx.open_unprotected(&row(6))),
        "it is open already"
    );
    assert_eq!(read(&mut store, Tx::unprotected), [row(5)]);
    let wide = PlacementRow {
        error_ms: 9,
        ..row(5)
    };
    write(&mut store, |tx| tx.set_unprotected_error(&guest("web"), 9));
    assert_eq!(
        read(&mut store, |tx| tx.unprotected_of(&guest("web"))),
        Some(wide.clone())
    );
    assert_eq!(read(&mut store, |tx| tx.unprotected_of(&guest("db"))), None);
    assert_eq!(
        write(&mut store, |tx| tx.close_unprotected(&guest("web"))),
        Some(wide)
    );
    assert_eq!(
        write(&mut store, |tx| tx.close_unprotected(&guest("web"))),
        None
    );
    write(&mut store, |tx| tx.add_placement(&row(5)));
    write(&mut store, |tx| tx.add_placement(&row(8)));
    assert_eq!(read(&mut store, Tx::placements), [row(8)]);
    let last = read(&mut store, |tx| tx.placement(&guest("web")));
    assert_eq!(last, Some(row(8)));
    assert_eq!(read(&mut store, |tx| tx.placement(&guest("db"))), None);
}

fn moves(path: &Path) {
    let mut store = open(path);
    for (key, body) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
        write(&mut store, |tx| tx.put_move(key, body));
    }
    let found = read(&mut store, |tx| tx.find_move("a"));
    assert_eq!(found.as_deref(), Some("3"));
    assert_eq!(read(&mut store, |tx| tx.find_move("d")), None);
    assert_eq!(read(&mut store, |tx| tx.moves(9)), ["3", "2", "4"]);
    assert_eq!(read(&mut store, |tx| tx.moves(2)), ["2", "4"]);
}

fn departures(path: &Path) {
    let mut store = open(path);
    let row = |on: &str, since_ms| DepartureRow {
        guest: guest("web"),
        host: host(on),
        since_ms,
    };
    for one in [row("a", 5), row("b", 9), row("c", 8)] {
        write(&mut store, |tx| tx.set_departure(&one));
    }
    let found = read(&mut store, |tx| tx.departure(&guest("web")));
    assert_eq!(found, Some(row("b", 9)));
    assert_eq!(read(&mut store, |tx| tx.departure(&guest("db"))), None);
}

fn range(path: &Path) {
    let mut store = open(path);
    let most = i64::MAX.unsigned_abs();
    write(&mut store, |tx| tx.add_binding(&binding(most, "web")));
    let result = store.write(|tx| tx.add_binding(&binding(most + 1, "web")));
    assert!(matches!(result, Err(StoreError::Range { value }) if value == most + 1));
    assert_eq!(
        read(&mut store, Tx::newest_bindings),
        [binding(most, "web")]
    );
}

fn revision(path: &Path) {
    let mut store = open(path);
    write(&mut store, |tx| tx.add_release(&release(1, "one")));
    write(&mut store, |tx| tx.add_binding(&binding(1, "web")));
    write(&mut store, |tx| tx.append_entries(0, &[b"entry".to_vec()]));
    assert_eq!(read(&mut store, Tx::revision), 2);
}
