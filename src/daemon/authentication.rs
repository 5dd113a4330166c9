//! Who users are, as the configuration says.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    config::{AuthConfig, Config, JwtKey, PublicConfig},
    model::Revocation,
    socket::{AuthSettings, Authenticator, Bus, JwtKeySettings, JwtSettings, JwtVerifier, OriginPolicy, Revocations},
    store::Store,
};

/// The pages that may use the public listener.
pub(super) fn origins(public: &PublicConfig) -> OriginPolicy {
    OriginPolicy::new(&public.allowed_origins, Some(&public.base_url))
}

/// # Errors
/// A key that cannot be used.
pub(super) fn authenticator(config: &Config, store: &Store, bus: Bus, revocations: Vec<Revocation>) -> anyhow::Result<Authenticator> {
    let AuthConfig { jwt, ticket_lifetime, revocation_retention } = &config.auth;
    let key = |key: &JwtKey| JwtKeySettings { kid: key.kid.clone(), algorithms: key.algorithm.0.clone(), source: key.source.clone() };
    let settings = JwtSettings {
        keys: jwt.keys.iter().map(key).collect(),
        leeway: jwt.leeway,
        user_claim: jwt.user_claim.clone(),
        topics_claim: jwt.topics_claim.clone(),
        audience: jwt.audience.clone(),
        issuer: jwt.issuer.clone(),
        jwks_refresh: jwt.jwks_refresh,
    };
    let verifier = JwtVerifier::new(&settings, Arc::new(Revocations::new(*revocation_retention, revocations))).context("auth.jwt.keys")?;
    let settings = AuthSettings {
        cookie: jwt.cookie.clone(),
        origins: origins(&config.public),
        ticket_lifetime: *ticket_lifetime,
        ticket_key: store.ticket_key().clone(),
    };
    Ok(Authenticator::new(verifier, settings, bus))
}
