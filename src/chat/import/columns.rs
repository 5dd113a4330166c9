//! Which tables and columns are wanted, and what they are called there. Names vary; what is not found is told by table and column.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::ImportError;

/// What rows are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    User,
    Property,
    Conversation,
    Message,
    Notification,
}

/// One of our columns, and what it may be called.
struct Column {
    name: &'static str,
    theirs: &'static [&'static str],
    required: bool,
}

const fn required(name: &'static str, theirs: &'static [&'static str]) -> Column {
    Column { name, theirs, required: true }
}

const fn optional(name: &'static str, theirs: &'static [&'static str]) -> Column {
    Column { name, theirs, required: false }
}

const ID: Column = required("id", &["id", "pk"]);
const CREATED: &[&str] = &["created_at", "created", "created_on", "date_created", "timestamp", "sent_at"];
const UPDATED: &[&str] = &["updated_at", "updated", "modified", "modified_at", "last_message_at"];

impl Kind {
    pub const ALL: [Self; 5] = [Self::User, Self::Property, Self::Conversation, Self::Message, Self::Notification];

    /// As `--map` names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Property => "property",
            Self::Conversation => "conversation",
            Self::Message => "message",
            Self::Notification => "notification",
        }
    }

    /// As staging keeps it.
    pub const fn as_number(self) -> u8 {
        self as u8
    }

    /// Tables it may be in; the first that is there.
    pub const fn tables(self) -> &'static [&'static str] {
        match self {
            Self::User => &["accounts_user", "auth_user", "users_user", "accounts_customuser", "users_customuser"],
            Self::Property => &["properties_property", "property_property", "listings_property"],
            Self::Conversation => &["communications_conversation"],
            Self::Message => &["communications_message"],
            Self::Notification => &["communications_notification"],
        }
    }

    /// Whether there is nothing to take over without it.
    pub const fn is_required(self) -> bool {
        matches!(self, Self::Conversation | Self::Message)
    }

    const fn columns(self) -> &'static [Column] {
        match self {
            Self::User => {
                const {
                    &[
                        ID,
                        optional("username", &["username"]),
                        optional("first_name", &["first_name"]),
                        optional("last_name", &["last_name"]),
                    ]
                }
            }
            Self::Property => const { &[ID, optional("title", &["title", "name"])] },
            Self::Conversation => {
                const {
                    &[
                        ID,
                        required("user", &["user_id", "user"]),
                        required("agent", &["agent_id", "agent"]),
                        optional("property", &["property_id", "property"]),
                        optional("property_title", &["property_title"]),
                        required("created_at", CREATED),
                        optional("updated_at", UPDATED),
                        optional("is_active", &["is_active", "active"]),
                    ]
                }
            }
            Self::Message => {
                const {
                    &[
                        ID,
                        required("conversation", &["conversation_id", "conversation"]),
                        required("sender", &["sender_id", "sender", "author_id", "author"]),
                        required("text", &["text", "content", "body", "encrypted_content", "encrypted_text"]),
                        required("created_at", CREATED),
                        optional("is_read", &["is_read", "read"]),
                        optional("read_at", &["read_at"]),
                        optional("reply_to", &["reply_to_id", "reply_to", "parent_id", "parent"]),
                        optional("is_deleted", &["is_deleted", "deleted"]),
                        optional("deleted_at", &["deleted_at"]),
                        optional("edited_at", &["edited_at"]),
                    ]
                }
            }
            Self::Notification => {
                const {
                    &[
                        ID,
                        required("user", &["user_id", "user", "recipient_id", "recipient"]),
                        optional("title", &["title", "subject"]),
                        required("message", &["message", "body", "text", "content"]),
                        optional("type", &["type", "notification_type", "kind", "category"]),
                        optional("is_read", &["is_read", "read"]),
                        optional("read_at", &["read_at"]),
                        required("created_at", CREATED),
                        optional("related_object_id", &["related_object_id", "related_id", "object_id"]),
                        optional("related_object_type", &["related_object_type", "related_type", "object_type"]),
                        optional("data", &["data", "payload", "extra", "metadata"]),
                    ]
                }
            }
        }
    }
}

/// What the person says about names: `message.text=body`, `message=chat_message`; `-` for a column that is not there.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    tables: BTreeMap<&'static str, String>,
    columns: BTreeMap<(&'static str, &'static str), String>,
}

impl Chosen {
    /// Adds one of them.
    ///
    /// # Errors
    /// It is about nothing that is wanted.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let bad = || format!("`{text}` maps nothing; hint: write it like message.text=body, or message=chat_message for a table");
        let (ours, theirs) = text.split_once('=').filter(|(_, theirs)| !theirs.is_empty()).ok_or_else(bad)?;
        let (kind, column) = ours.split_once('.').map_or((ours, None), |(kind, column)| (kind, Some(column)));
        let Some(kind) = Kind::ALL.into_iter().find(|known| known.as_str() == kind) else {
            return Err(format!("`{kind}` is not wanted; hint: one of {}", Kind::ALL.map(Kind::as_str).join(", ")));
        };
        let Some(column) = column else {
            self.tables.insert(kind.as_str(), theirs.to_owned());
            return Ok(());
        };
        let Some(known) = kind.columns().iter().find(|known| known.name == column) else {
            let names: Vec<&str> = kind.columns().iter().map(|column| column.name).collect();
            return Err(format!("a {} has no `{column}` here; hint: one of {}", kind.as_str(), names.join(", ")));
        };
        self.columns.insert((kind.as_str(), known.name), theirs.to_owned());
        Ok(())
    }

    /// What a table of the source is about, if it is wanted. Its schema does not matter.
    pub fn kind_of(&self, table: &str) -> Option<Kind> {
        let bare = table.rsplit('.').next().unwrap_or(table).trim_matches('"');
        Kind::ALL.into_iter().find(|kind| match self.tables.get(kind.as_str()) {
            Some(chosen) => chosen == bare || chosen == table,
            None => kind.tables().contains(&bare),
        })
    }

    /// The tables that may be of this kind.
    pub fn tables_of(&self, kind: Kind) -> Vec<String> {
        match self.tables.get(kind.as_str()) {
            Some(chosen) => vec![chosen.clone()],
            None => kind.tables().iter().map(|table| (*table).to_owned()).collect(),
        }
    }
}

/// Where in a table's rows what is wanted is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Ours, and theirs.
    pub columns: Vec<(&'static str, String)>,
    /// What is there and not wanted.
    pub ignored: BTreeSet<String>,
}

impl Choice {
    /// Finds the wanted columns of `table` among `there`.
    ///
    /// # Errors
    /// One is missing, or could be several.
    pub fn of(kind: Kind, table: &str, there: &[String], chosen: &Chosen) -> Result<Self, ImportError> {
        let mut columns = Vec::new();
        for column in kind.columns() {
            let wanted = |hint: &str| format!("; hint: {hint}--map {}.{}=COLUMN", kind.as_str(), column.name);
            let theirs = match chosen.columns.get(&(kind.as_str(), column.name)).map(String::as_str) {
                Some("-") => continue,
                Some(named) if there.iter().any(|column| column == named) => named,
                Some(named) => {
                    let told = format!("table {table} has no column `{named}`; it has {}", there.join(", "));
                    return Err(ImportError::source(told + &wanted("name another with ")));
                }
                None => {
                    let found: Vec<&&str> = column.theirs.iter().filter(|name| there.iter().any(|column| column == **name)).collect();
                    match found[..] {
                        [] if !column.required => continue,
                        [] => {
                            let told = format!("table {table} has no column for `{}` ({})", column.name, column.theirs.join(", "));
                            let told = format!("{told}; it has {}", there.join(", "));
                            return Err(ImportError::source(told + &wanted("name it with ")));
                        }
                        [only] => only,
                        [first, second, ..] => {
                            let told = format!("table {table} has `{first}` and `{second}`, and either may be `{}`", column.name);
                            return Err(ImportError::source(told + &wanted("choose with ")));
                        }
                    }
                }
            };
            columns.push((column.name, theirs.to_owned()));
        }
        let ignored = there.iter().filter(|column| columns.iter().all(|(_, taken)| taken != *column)).cloned().collect();
        Ok(Self { columns, ignored })
    }

    /// What is wanted of a row, under our names.
    pub fn take(&self, row: &mut Map<String, Value>) -> Map<String, Value> {
        self.columns.iter().map(|(ours, theirs)| ((*ours).to_owned(), row.remove(theirs).unwrap_or(Value::Null))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(columns: &[&str], map: &[&str]) -> Result<Choice, String> {
        let mut chosen = Chosen::default();
        for text in map {
            chosen.add(text)?;
        }
        let there: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        Choice::of(Kind::Message, "communications_message", &there, &chosen).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check_refused(columns: &[&str], map: &[&str], expected: &str) {
        assert_eq!(choice(columns, map).unwrap_err(), expected);
    }

    #[test]
    fn names_vary() {
        let found = choice(&["id", "conversation_id", "sender_id", "content", "created_at", "is_read", "search_vector"], &[]).unwrap();
        assert!(found.columns.contains(&("text", "content".to_owned())));
        assert_eq!(found.ignored, BTreeSet::from(["search_vector".to_owned()]));
        let mapped = choice(&["id", "conversation", "sender", "secret", "text", "created"], &["message.text=secret"]).unwrap();
        assert!(mapped.columns.contains(&("text", "secret".to_owned())));
        let without = choice(&["id", "conversation", "sender", "text", "created", "read_at"], &["message.read_at=-"]).unwrap();
        assert!(without.ignored.contains("read_at"));
    }

    #[test]
    fn what_is_not_found_is_told_by_table_and_column() {
        check_refused(
            &["id", "conversation_id", "sender_id", "created_at"],
            &[],
            "table communications_message has no column for `text` (text, content, body, encrypted_content, encrypted_text); it has id, \
             conversation_id, sender_id, created_at; hint: name it with --map message.text=COLUMN",
        );
        check_refused(
            &["id", "conversation_id", "sender_id", "created_at", "text", "content"],
            &[],
            "table communications_message has `text` and `content`, and either may be `text`; hint: choose with --map message.text=COLUMN",
        );
        check_refused(
            &["id", "conversation_id"],
            &["message.sender=from_id"],
            "table communications_message has no column `from_id`; it has id, conversation_id; hint: name another with --map \
             message.sender=COLUMN",
        );
        check_refused(&[], &["message.colour=x"], &choice(&[], &["message.colour=x"]).unwrap_err());
        assert!(
            choice(&[], &["message.colour=x"]).unwrap_err().starts_with("a message has no `colour` here; hint: one of id, conversation,")
        );
        assert!(choice(&[], &["messages.text=x"]).unwrap_err().starts_with("`messages` is not wanted; hint: one of user, property,"));
        assert!(choice(&[], &["text"]).unwrap_err().starts_with("`text` maps nothing"));
    }

    #[test]
    fn tables_are_known_in_any_schema() {
        let mut chosen = Chosen::default();
        assert_eq!(chosen.kind_of("public.communications_message"), Some(Kind::Message));
        assert_eq!(chosen.kind_of("\"public\".\"communications_message\""), Some(Kind::Message));
        assert_eq!(chosen.kind_of("auth_user"), Some(Kind::User));
        assert_eq!(chosen.kind_of("django_session"), None);
        chosen.add("message=chat_message").unwrap();
        assert_eq!((chosen.kind_of("chat_message"), chosen.kind_of("communications_message")), (Some(Kind::Message), None));
    }
}
