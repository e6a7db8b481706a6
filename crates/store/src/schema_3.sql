-- The newest statement of which release is the newest; one row at most.
CREATE TABLE freshness (
    id       INTEGER PRIMARY KEY CHECK (id = 0),
    envelope TEXT NOT NULL
) STRICT;
