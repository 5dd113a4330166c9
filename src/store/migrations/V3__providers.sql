-- The last outcome is unknown: only the provider that may have taken it may try again.
ALTER TABLE deliveries ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
-- The status a provider's callback brought while the attempt was under way; taken when its outcome is recorded.
ALTER TABLE deliveries ADD COLUMN confirmed INTEGER;

-- Addresses that are not written to. The address is canonical: see src/store/suppressions.rs.
CREATE TABLE suppressions (
    channel    INTEGER NOT NULL,
    address    TEXT    NOT NULL,
    list       TEXT    NOT NULL,             -- the kind of mail it is about; '' is all of them
    reason     TEXT    NOT NULL,
    source     TEXT    NOT NULL,             -- a provider, or who added it
    created_at INTEGER NOT NULL,
    expires_at INTEGER,                      -- NULL: never
    PRIMARY KEY (channel, address, list)
) STRICT, WITHOUT ROWID;

CREATE INDEX suppressions_expires ON suppressions (expires_at) WHERE expires_at IS NOT NULL;

-- What providers have called back with, so that a repeat changes nothing.
CREATE TABLE callbacks (
    provider TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (provider, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX callbacks_at ON callbacks (at);

-- What became of a message after it was sent, each kind once: the first time.
CREATE TABLE confirmations (
    job     INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    kind    INTEGER NOT NULL,                -- 0: delivered; 1: opened; 2: clicked
    at      INTEGER NOT NULL,
    PRIMARY KEY (job, ordinal, kind)
) STRICT, WITHOUT ROWID;
