//! The two listeners as the configuration has them.

use std::sync::Arc;

use anyhow::Context as _;
use axum::{Router, middleware};

use super::{Problems, Ready};
use crate::{
    config::{AdminConfig, Config, ListenAddress, PublicConfig},
    intake::{problem_details::ProblemDetails, refusals},
    live::{self, Live},
    model::Problem,
    socket::{App, Endpoint, ListenerCounters, ListenerSettings, ProxyTrust, Tls, TlsFile},
};

/// Connections the admin listener takes at once.
const ADMIN_CONNECTIONS: usize = 4096;

/// The certificate and key of the public listener, where the configuration names them.
///
/// # Errors
/// What is wrong with the files.
pub fn load_tls(config: &Config) -> Result<Option<Tls>, Problems> {
    let (Some(certificate), Some(key)) = (&config.public.tls.certificate_file, &config.public.tls.key_file) else { return Ok(None) };
    let tls = Tls::load(certificate.clone(), key.clone()).map_err(|wrong| {
        let key = match wrong.file {
            TlsFile::Certificate => "public.tls.certificate_file",
            TlsFile::Key => "public.tls.key_file",
        };
        Problems(vec![Problem::new(key, format!("{} {}", wrong.path.display(), wrong.problem), wrong.hint)])
    })?;
    Ok(Some(tls))
}

/// Every address, and where they are in fact.
pub(super) async fn bind(config: &Config) -> anyhow::Result<(Vec<Endpoint>, Endpoint, Ready)> {
    let mut public = Vec::new();
    for address in &config.public.listen {
        public.push(bind_one(address, config.public.socket_mode, "public.listen").await?);
    }
    let admin = bind_one(&ListenAddress::Tcp(config.admin.listen), 0, "admin.listen").await?;
    let ready = Ready {
        public: public.iter().map(Endpoint::address).collect::<Result<_, _>>()?,
        admin: admin.address()?.tcp().context("the admin listener is on TCP")?,
    };
    Ok((public, admin, ready))
}

async fn bind_one(address: &ListenAddress, socket_mode: u32, key: &str) -> anyhow::Result<Endpoint> {
    Endpoint::bind(address, socket_mode).await.map_err(|error| {
        let hint = error.hint();
        Problems(vec![Problem::new(key, format!("cannot listen on {address}: {error}"), hint)]).into()
    })
}

/// What users reach: `router`, and the notifications socket beside it.
pub(super) fn public_app(router: Router, live: &Arc<Live>) -> App {
    // Else it would be whichever router's was merged first, and ask for a token.
    let router = router.fallback(async || ProblemDetails::not_found("there is nothing here; hint: /openapi.json lists what is"));
    live::SOCKET_PATHS.into_iter().fold(app(router), |app, path| {
        let live = live.clone();
        app.with_socket(path, move |parts| refusals::answered(path, live::open_socket(live.clone(), parts)))
    })
}

/// Routes, every error of theirs in one form.
pub(super) fn app(router: Router) -> App {
    router.layer(middleware::from_fn(refusals::uniform)).into()
}

pub(super) fn public_settings(config: &PublicConfig, tls: Option<Arc<Tls>>, counters: Arc<ListenerCounters>) -> ListenerSettings {
    ListenerSettings {
        header_timeout: config.header_timeout,
        body_timeout: config.body_timeout,
        max_connections: config.max_connections,
        max_connections_per_address: config.max_connections_per_address,
        trust: ProxyTrust {
            proxies: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
            header: config.client_address_header,
        },
        tls,
        counters,
    }
}

pub(super) fn admin_settings(config: &AdminConfig, counters: Arc<ListenerCounters>) -> ListenerSettings {
    ListenerSettings::direct(config.header_timeout, config.body_timeout, ADMIN_CONNECTIONS, counters)
}
