//! The claims of a token, as far as anybody looks at them. The others, and there may be many, are passed over as they are read.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// A claim that is looked at (RFC 7519, section 4.1), by what it means here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Claim {
    Issuer,
    Audience,
    ExpiresAt,
    NotBefore,
    IssuedAt,
    Id,
    /// simplejwt's `token_type`.
    Kind,
    User,
    /// The last one: [`COUNT`] counts up to it.
    Topics,
}

const COUNT: usize = Claim::Topics as usize + 1;

/// What each claim is called, in the order of [`Claim`].
#[derive(Debug)]
pub(super) struct ClaimNames([String; COUNT]);

impl ClaimNames {
    pub(super) fn new(user: &str, topics: &str) -> Self {
        Self(["iss", "aud", "exp", "nbf", "iat", "jti", "token_type", user, topics].map(str::to_owned))
    }
}

/// The claims of one token.
#[derive(Debug, Default)]
pub(super) struct Claims([Option<Value>; COUNT]);

impl Claims {
    pub(super) fn get(&self, claim: Claim) -> Option<&Value> {
        self.0[claim as usize].as_ref()
    }
}

impl<'de> DeserializeSeed<'de> for &ClaimNames {
    type Value = Claims;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Claims, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &ClaimNames {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut claims = Claims::default();
        while let Some(meanings) = map.next_key_seed(Meanings(self))? {
            // One claim may mean two things, as where the user's id is the token's.
            let mut meanings = meanings.into_iter().enumerate().filter(|(_, is_meant)| *is_meant);
            let Some((first, _)) = meanings.next() else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: Value = map.next_value()?;
            meanings.for_each(|(other, _)| claims.0[other] = Some(value.clone()));
            claims.0[first] = Some(value);
        }
        Ok(claims)
    }
}

/// Which claims a name means.
struct Meanings<'n>(&'n ClaimNames);

impl<'de> DeserializeSeed<'de> for Meanings<'_> {
    type Value = [bool; COUNT];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Meanings<'_> {
    type Value = [bool; COUNT];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a claim's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.0.each_ref().map(|known| known == name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(names: &ClaimNames, json: &str) -> Claims {
        names.deserialize(&mut serde_json::Deserializer::from_str(json)).unwrap()
    }

    #[test]
    fn claims_are_found_by_their_names_and_all_others_passed_over() {
        let json = r#"{"exp": 7, "more": {"exp": [8, {"iss": 1}]}, "sub": "42", "\u0069ss": "backend", "topics": null, "ex": 9}"#;
        let claims = read(&ClaimNames::new("sub", "topics"), json);
        assert_eq!(claims.get(Claim::ExpiresAt), Some(&json!(7)));
        assert_eq!(claims.get(Claim::User), Some(&json!("42")));
        assert_eq!(claims.get(Claim::Issuer), Some(&json!("backend")), "an escape is no disguise");
        assert_eq!(claims.get(Claim::Topics), Some(&json!(null)));
        assert_eq!(claims.get(Claim::Audience), None);
    }

    #[test]
    fn of_a_claim_that_comes_twice_the_last_counts() {
        let claims = read(&ClaimNames::new("user_id", "topics"), r#"{"exp": 1, "user_id": "42", "exp": 7}"#);
        assert_eq!(claims.get(Claim::ExpiresAt), Some(&json!(7)));
    }

    #[test]
    fn a_claim_may_mean_two_things() {
        let claims = read(&ClaimNames::new("jti", "aud"), r#"{"jti": "42", "aud": ["city.dar"]}"#);
        assert_eq!((claims.get(Claim::Id), claims.get(Claim::User)), (Some(&json!("42")), Some(&json!("42"))));
        assert_eq!((claims.get(Claim::Audience), claims.get(Claim::Topics)), (Some(&json!(["city.dar"])), Some(&json!(["city.dar"]))));
    }
}
