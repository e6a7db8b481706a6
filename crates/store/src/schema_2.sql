-- Moves by what they are, so that the same record out of both ends' logs counts once, and so that an
-- unprotected stay can end. The rows are an index over entries; no release of the manager was made
-- that filled the old table.
DROP TABLE moves;
CREATE TABLE moves (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key    TEXT NOT NULL UNIQUE,
    body   TEXT NOT NULL
) STRICT;

-- When each guest's last host said that it left: the other end of a stay that nobody enforces.
CREATE TABLE departures (
    guest    TEXT PRIMARY KEY,
    host     TEXT NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT;
