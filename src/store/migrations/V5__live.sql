-- What a user deleted, or a newer item replaced, keeps its row without its content until retention removes it: whoever was away is told.
ALTER TABLE inbox ADD COLUMN deleted_at INTEGER;
-- When its state last changed: seen, read, archived, deleted.
ALTER TABLE inbox ADD COLUMN changed_at INTEGER;

DROP INDEX inbox_collapse;
CREATE INDEX inbox_collapse ON inbox (user_id, collapse_key) WHERE collapse_key IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX inbox_changed ON inbox (user_id, changed_at) WHERE changed_at IS NOT NULL;

-- History up to this seq, and up to this moment, is gone, or has gaps that nobody can tell from others.
ALTER TABLE inbox_users ADD COLUMN floor INTEGER NOT NULL DEFAULT 0;
ALTER TABLE inbox_users ADD COLUMN floor_at INTEGER NOT NULL DEFAULT 0;
UPDATE inbox_users SET
    floor = coalesce((SELECT min(seq) - 1 FROM inbox i WHERE i.user_id = inbox_users.user_id), seq),
    floor_at = coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'inbox_purged_before'), 0);
DELETE FROM meta WHERE key = 'inbox_purged_before';

CREATE TABLE topics (
    topic    TEXT    PRIMARY KEY,
    seq      INTEGER NOT NULL,
    floor    INTEGER NOT NULL,
    floor_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per notification, however many follow the topic.
CREATE TABLE topic_items (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    topic        TEXT    NOT NULL,
    seq          INTEGER NOT NULL,
    job          INTEGER NOT NULL,
    ordinal      INTEGER NOT NULL,
    notification TEXT    NOT NULL,
    collapse_key TEXT,
    created_at   INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX topic_items_seq ON topic_items (topic, seq);
CREATE UNIQUE INDEX topic_items_delivery ON topic_items (job, ordinal);
CREATE INDEX topic_items_collapse ON topic_items (topic, collapse_key) WHERE collapse_key IS NOT NULL;
CREATE INDEX topic_items_created ON topic_items (created_at);
