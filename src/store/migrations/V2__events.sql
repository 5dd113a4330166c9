-- What the broker has yet to be told, in the order it happened. A delivery's part of a row is what it was at that moment; what never
-- changes is read from the delivery and its job.
CREATE TABLE pending_events (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind        INTEGER NOT NULL,             -- 0: a delivery took a status; 1: a job finished; 2: an address is gone
    job         INTEGER NOT NULL,
    ordinal     INTEGER,                      -- NULL when it is about the job
    status      INTEGER,
    code        TEXT,
    attempts    INTEGER,
    provider    TEXT,
    provider_id TEXT,
    at          INTEGER NOT NULL
) STRICT;

-- For the purge: a job stays until its events are gone.
CREATE INDEX pending_events_job ON pending_events (job);

-- Messages whose processing has begun alone and not ended, by a hash of theirs.
CREATE TABLE suspects (
    key   BLOB    PRIMARY KEY,
    tries INTEGER NOT NULL,
    at    INTEGER NOT NULL                    -- of the last try
) STRICT, WITHOUT ROWID;
