-- Moments are milliseconds since the Unix epoch; channel, priority and status are the numbers of the Rust enums in src/model/channel.rs.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per accepted job. The document is the job without its recipients.
CREATE TABLE jobs (
    num          INTEGER PRIMARY KEY AUTOINCREMENT,
    key          BLOB    NOT NULL,            -- first 12 bytes of SHA-256 over the id; the head of its deliveries' ids
    id           TEXT    NOT NULL,
    body_hash    BLOB    NOT NULL,            -- SHA-256 over the received document in canonical JSON (RFC 8785)
    envelope     TEXT    NOT NULL,
    template     TEXT,
    planned      INTEGER NOT NULL,            -- deliveries in all
    made         INTEGER NOT NULL,            -- deliveries that are rows by now
    open         INTEGER NOT NULL,            -- deliveries queued or sending, unmade ones included
    skipped      TEXT,                        -- JSON array, NULL when nothing was skipped
    accepted_at  INTEGER NOT NULL,
    cancelled_at INTEGER,
    finished_at  INTEGER                      -- set when open reaches 0
) STRICT;

CREATE UNIQUE INDEX jobs_key ON jobs (key);
CREATE INDEX jobs_template ON jobs (template, num) WHERE template IS NOT NULL;
CREATE INDEX jobs_accepted ON jobs (accepted_at);
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- Ids of purged jobs, kept until intake.idempotency_retention is over.
CREATE TABLE remembered (
    key         BLOB    PRIMARY KEY,
    body_hash   BLOB    NOT NULL,
    planned     INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX remembered_accepted ON remembered (accepted_at);

-- Large jobs whose deliveries are still being made; jobs.made is the cursor.
CREATE TABLE expansions (
    job  INTEGER PRIMARY KEY,
    plan TEXT    NOT NULL
) STRICT;

-- The unit of sending. Clustered by job, so that arrivals append and a job's deliveries lie together.
CREATE TABLE deliveries (
    job          INTEGER NOT NULL,
    ordinal      INTEGER NOT NULL,
    channel      INTEGER NOT NULL,
    priority     INTEGER NOT NULL,
    user_id      TEXT,
    address      TEXT    NOT NULL,
    locale       TEXT,
    timezone     TEXT,
    collapse_key TEXT,
    status       INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,            -- attempts recorded
    due_at       INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    lease_owner  INTEGER NOT NULL,            -- incarnation that holds it in memory; 0 is nobody
    lease_until  INTEGER NOT NULL,
    cancelling   INTEGER NOT NULL DEFAULT 0,  -- cancelled while sending: no retry
    provider     TEXT,
    provider_id  TEXT,
    code         TEXT,
    attempt_at   INTEGER,                     -- when the last attempt was recorded
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (job, ordinal)
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_due ON deliveries (channel, priority, lease_owner, due_at) WHERE status = 0;
CREATE INDEX deliveries_open ON deliveries (status) WHERE status <= 1;
CREATE INDEX deliveries_lost ON deliveries (status) WHERE status >= 4;
CREATE INDEX deliveries_user ON deliveries (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX deliveries_collapse ON deliveries (collapse_key, user_id, channel) WHERE status = 0 AND collapse_key IS NOT NULL;

-- Attempts that have an outcome. The one under way is in its delivery's row.
CREATE TABLE attempts (
    job         INTEGER NOT NULL,
    ordinal     INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    provider    TEXT,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    outcome     TEXT    NOT NULL,
    code        TEXT,
    detail      TEXT,
    provider_id TEXT,
    PRIMARY KEY (job, ordinal, number)
) STRICT, WITHOUT ROWID;

-- accepted = the sum of status_counts + purged, at every commit.
CREATE TABLE counters (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE status_counts (
    channel INTEGER NOT NULL,
    status  INTEGER NOT NULL,
    value   INTEGER NOT NULL,
    PRIMARY KEY (channel, status)
) STRICT, WITHOUT ROWID;

CREATE TABLE contacts (
    user_id    TEXT    PRIMARY KEY,
    document   TEXT    NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A device belongs to whoever registered it last.
CREATE TABLE push_tokens (
    token         TEXT    PRIMARY KEY,
    user_id       TEXT    NOT NULL,
    platform      TEXT,
    registered_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX push_tokens_user ON push_tokens (user_id, registered_at);

-- A user's live notifications. The id is what clients see; (job, ordinal) makes a repeat find its row.
CREATE TABLE inbox (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id      TEXT    NOT NULL,
    seq          INTEGER NOT NULL,
    job          INTEGER NOT NULL,
    ordinal      INTEGER NOT NULL,
    notification TEXT    NOT NULL,
    collapse_key TEXT,
    created_at   INTEGER NOT NULL,
    seen_at      INTEGER,
    read_at      INTEGER,
    archived_at  INTEGER
) STRICT;

CREATE UNIQUE INDEX inbox_seq ON inbox (user_id, seq);
CREATE UNIQUE INDEX inbox_delivery ON inbox (job, ordinal);
CREATE INDEX inbox_collapse ON inbox (user_id, collapse_key) WHERE collapse_key IS NOT NULL;
CREATE INDEX inbox_created ON inbox (created_at);

CREATE TABLE inbox_users (
    user_id TEXT    PRIMARY KEY,
    seq     INTEGER NOT NULL,
    unread  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
