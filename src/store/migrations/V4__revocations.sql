-- Tokens that are refused though they are good: those of a user issued up to a moment, or one by its id.
CREATE TABLE revocations (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id    TEXT,
    jti        TEXT,
    reason     TEXT,
    revoked_by TEXT    NOT NULL,
    revoked_at INTEGER NOT NULL,
    CHECK ((user_id IS NULL) <> (jti IS NULL))
) STRICT;

CREATE UNIQUE INDEX revocations_user ON revocations (user_id) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX revocations_jti ON revocations (jti) WHERE jti IS NOT NULL;
CREATE INDEX revocations_at ON revocations (revoked_at);
