-- Signed documents are kept as they were signed; columns beside them only order and find them.
CREATE TABLE revision (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO revision VALUES (1, 0);

CREATE TABLE releases (
    generation INTEGER PRIMARY KEY,
    digest     TEXT NOT NULL UNIQUE,
    envelope   TEXT NOT NULL
) STRICT;

CREATE TABLE bindings (
    epoch    INTEGER PRIMARY KEY,
    guest    TEXT NOT NULL,
    envelope TEXT NOT NULL
) STRICT;
CREATE INDEX bindings_by_guest ON bindings (guest, epoch);

CREATE TABLE attestations (
    vnic     INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    envelope TEXT NOT NULL,
    PRIMARY KEY (vnic, sequence)
) STRICT;

CREATE TABLE tokens (
    digest     BLOB PRIMARY KEY,
    role       TEXT NOT NULL,
    name       TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    used_ms    INTEGER
) STRICT;

CREATE TABLE certificates (
    fingerprint  TEXT PRIMARY KEY,
    role         TEXT NOT NULL,
    name         TEXT NOT NULL,
    not_after_ms INTEGER NOT NULL,
    revoked_ms   INTEGER
) STRICT;

CREATE TABLE hosts (
    host        TEXT PRIMARY KEY,
    key         TEXT,
    report      TEXT,
    reported_ms INTEGER
) STRICT;

CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    bytes  BLOB NOT NULL
) STRICT;

-- One row: a checkpoint is signed only after the entries that it covers are durable.
CREATE TABLE checkpoint (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL,
    note TEXT NOT NULL
) STRICT;

CREATE TABLE host_logs (
    host       TEXT PRIMARY KEY,
    next       INTEGER NOT NULL,
    checkpoint TEXT NOT NULL
) STRICT;

CREATE TABLE host_entries (
    host     TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    entry    INTEGER NOT NULL REFERENCES entries (number),
    PRIMARY KEY (host, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE placements (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    guest    TEXT NOT NULL,
    host     TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    error_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX placements_by_guest ON placements (guest, id);

-- Guests that run where no agent enforces, until they are seen on a protected host again.
CREATE TABLE unprotected (
    guest    TEXT PRIMARY KEY,
    host     TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    error_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE moves (
    entry INTEGER PRIMARY KEY REFERENCES entries (number),
    body  TEXT NOT NULL
) STRICT;
