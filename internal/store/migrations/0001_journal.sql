-- Releases and their append-only journal.
CREATE TABLE releases (
    id          TEXT    PRIMARY KEY,
    name        TEXT    NOT NULL,
    number      INTEGER NOT NULL CHECK (number > 0),
    spec_path   TEXT    NOT NULL,
    spec_digest TEXT    NOT NULL,
    created     INTEGER NOT NULL, -- nanoseconds since 1970, UTC
    UNIQUE (name, number)
) STRICT;

CREATE TABLE records (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice
    release TEXT    NOT NULL REFERENCES releases (id),
    stage   TEXT    NOT NULL,
    event   TEXT    NOT NULL CHECK (event IN ('started', 'passed', 'failed', 'inconclusive', 'error', 'note')),
    digest  TEXT    NOT NULL,
    at      INTEGER NOT NULL, -- nanoseconds since 1970, UTC
    data    TEXT    NOT NULL  -- JSON; empty = none
) STRICT;

CREATE INDEX records_by_release ON records (release, seq);

CREATE TRIGGER records_are_not_changed BEFORE UPDATE ON records
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

CREATE TRIGGER records_are_not_removed BEFORE DELETE ON records
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
