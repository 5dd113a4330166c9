//! Tokens that are refused though they are good: what was revoked, and what that covers.

use serde::{Deserialize, Serialize};

use super::{Timestamp, UserId};

/// What was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// Every token of this user that was issued up to that moment, so that a new login works.
    UserId(UserId),
    /// The token with this id.
    Jti(String),
}

/// A revocation, as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Revocation {
    pub id: i64,
    #[serde(flatten)]
    pub what: Revoked,
    pub reason: Option<String>,
    /// Who did it: the name of an API key, or `loopback`.
    pub revoked_by: String,
    pub revoked_at: Timestamp,
}

impl Revocation {
    /// Whether it refuses a token of this user, with this id, issued at that moment; without one, nobody can say it was after.
    pub fn covers(&self, user_id: &UserId, jti: Option<&str>, issued_at: Option<Timestamp>) -> bool {
        match &self.what {
            Revoked::UserId(user) => user == user_id && issued_at.is_none_or(|issued_at| issued_at <= self.revoked_at),
            Revoked::Jti(revoked) => jti == Some(revoked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_768_473_000_500);

    fn revocation(what: Revoked) -> Revocation {
        Revocation { id: 1, what, reason: None, revoked_by: "backend".to_owned(), revoked_at: AT }
    }

    #[track_caller]
    fn check(what: &Revoked, (user, jti, issued_at): (&str, Option<&str>, Option<i64>), expected: bool) {
        let issued_at = issued_at.map(|second| Timestamp::from_millis(second * 1000));
        assert_eq!(
            revocation(what.clone()).covers(&user.parse().unwrap(), jti, issued_at),
            expected,
            "{what:?} {user} {jti:?} {issued_at:?}"
        );
    }

    #[test]
    fn a_user_is_revoked_up_to_that_moment_and_a_token_for_good() {
        let second = AT.as_millis() / 1000;
        let user = Revoked::UserId("42".parse().unwrap());
        check(&user, ("42", None, Some(second)), true);
        check(&user, ("42", None, Some(second + 1)), false);
        check(&user, ("42", Some("a"), None), true);
        check(&user, ("43", None, Some(second)), false);
        let token = Revoked::Jti("a".to_owned());
        check(&token, ("42", Some("a"), Some(second + 1)), true);
        check(&token, ("42", Some("b"), Some(second)), false);
        check(&token, ("42", None, None), false);
    }

    #[test]
    fn the_document_names_what_was_revoked() {
        let document = serde_json::to_value(revocation(Revoked::Jti("a".to_owned()))).unwrap();
        assert_eq!((&document["jti"], document.get("user_id")), (&"a".into(), None));
        assert_eq!(serde_json::from_value::<Revocation>(document).unwrap(), revocation(Revoked::Jti("a".to_owned())));
    }
}
