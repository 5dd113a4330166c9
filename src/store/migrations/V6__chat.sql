-- People talking with each other about something.
CREATE TABLE conversations (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    key            TEXT,                         -- chosen by the backend that made it
    body_hash      BLOB,                         -- of the request that made it, when it has a key
    direct         TEXT,                         -- names two people and a subject, while there are no others: see src/store/chat/conversations.rs
    created_by     TEXT,
    property_id    TEXT,                         -- JSON: a number or a text
    property_title TEXT,
    metadata       TEXT    NOT NULL,             -- JSON object
    event          INTEGER NOT NULL DEFAULT 0,   -- number of the newest event
    floor          INTEGER NOT NULL DEFAULT 0,   -- events up to here are gone
    last_message   INTEGER,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL              -- of the last message, or of the making
) STRICT;

CREATE UNIQUE INDEX conversations_key ON conversations (key) WHERE key IS NOT NULL;
CREATE INDEX conversations_direct ON conversations (direct) WHERE direct IS NOT NULL;

-- A row stays when somebody leaves: what they said keeps their name.
CREATE TABLE participants (
    conversation INTEGER NOT NULL,
    user_id      TEXT    NOT NULL,
    name         TEXT,
    role         TEXT,                           -- 'user' or 'agent'
    joined_at    INTEGER NOT NULL,
    left_at      INTEGER,
    removed      INTEGER NOT NULL DEFAULT 0,     -- they left by another's will, and are not let in again by their own
    hidden_at    INTEGER,
    muted        INTEGER NOT NULL DEFAULT 0,
    unread_from  INTEGER NOT NULL DEFAULT 0,     -- messages up to here were before they joined, and are never unread
    read_to      INTEGER NOT NULL DEFAULT 0,
    read_at      INTEGER,
    unread       INTEGER NOT NULL DEFAULT 0,     -- messages of others after both, neither deleted nor hidden
    activity     INTEGER NOT NULL,               -- the conversation's updated_at, for listing by index
    PRIMARY KEY (conversation, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX participants_activity ON participants (user_id, activity) WHERE left_at IS NULL;
CREATE INDEX participants_unread ON participants (user_id, unread) WHERE unread > 0 AND left_at IS NULL AND hidden_at IS NULL;

-- One thread writes, so within a conversation ids commit in order, and events do too.
CREATE TABLE messages (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL,
    event        INTEGER NOT NULL,
    sender       TEXT    NOT NULL,
    client_id    TEXT,
    sealed       TEXT    NOT NULL,               -- empty once deleted
    reply_to     INTEGER,
    created_at   INTEGER NOT NULL,
    edited_at    INTEGER,
    deleted_at   INTEGER
) STRICT;

CREATE UNIQUE INDEX messages_event ON messages (conversation, event);
CREATE INDEX messages_conversation ON messages (conversation, id);
CREATE UNIQUE INDEX messages_client ON messages (conversation, sender, client_id) WHERE client_id IS NOT NULL;

-- The events that are not messages of their own.
CREATE TABLE message_changes (
    conversation INTEGER NOT NULL,
    event        INTEGER NOT NULL,
    message      INTEGER NOT NULL,
    kind         INTEGER NOT NULL,               -- 1: edited; 2: deleted
    PRIMARY KEY (conversation, event)
) STRICT, WITHOUT ROWID;

-- Messages that one user does not want to see.
CREATE TABLE hidden_messages (
    user_id TEXT    NOT NULL,
    message INTEGER NOT NULL,
    PRIMARY KEY (user_id, message)
) STRICT, WITHOUT ROWID;

CREATE TABLE chat_blocks (
    user_id    TEXT    NOT NULL,
    blocked    TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, blocked)
) STRICT, WITHOUT ROWID;

-- Whoever is to be told that they have unread messages, once for each streak of them: the row stays after its job is made and goes when
-- they have read its first message.
CREATE TABLE notify (
    conversation  INTEGER NOT NULL,
    user_id       TEXT    NOT NULL,
    first_message INTEGER NOT NULL,
    due_at        INTEGER NOT NULL,
    job_id        TEXT,                          -- once its job is made
    PRIMARY KEY (conversation, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX notify_due ON notify (due_at) WHERE job_id IS NULL;
