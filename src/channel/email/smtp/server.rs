//! The configured mail server, and how a session with it begins: connection, TLS, authentication.

use std::time::Duration;

use lettre::transport::smtp::{
    authentication::{Credentials, Mechanism},
    client::{AsyncSmtpConnection, Certificate, TlsParameters},
    extension::ClientId,
};
use secrecy::ExposeSecret as _;
use tokio::{net::TcpStream, time::timeout};

use super::{
    failure::{Failed, Failure},
    plain_stream::PlainStream,
    reply::Stage,
    session::Session,
};
use crate::config::{SmtpConfig, SmtpTls};

/// Octets of a domain (RFC 5321, section 4.5.3.1.2).
const HELLO_LIMIT: usize = 255;
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];
const NO_STARTTLS: &str =
    "the server does not offer STARTTLS, and nothing is sent without; hint: is it the port for submission, or smtps://?";
const NO_MECHANISM: &str = "the server offers neither AUTH PLAIN nor AUTH LOGIN; hint: leave the user out, or ask for one of them";

pub(super) struct Server {
    host: String,
    port: u16,
    way: Way,
    hello: ClientId,
    /// Only ever with TLS.
    credentials: Option<Credentials>,
    connect_timeout: Duration,
}

/// How the connection is protected.
enum Way {
    /// TLS from the first byte (RFC 8314).
    Implicit(TlsParameters),
    /// TLS once the server has offered it, or nothing (RFC 3207).
    StartTls(TlsParameters),
    /// Not at all; to this machine only, which the configuration's check has seen to.
    Plain,
}

impl Server {
    /// # Errors
    /// Which key is wrong, and why.
    pub fn new(config: &SmtpConfig) -> Result<Self, String> {
        let Some(url) = &config.url else { return Err("provider.smtp.url: is not there".to_owned()) };
        let way = match config.tls {
            SmtpTls::Required if url.is_implicit_tls() => Way::Implicit(tls(config, url.host())?),
            SmtpTls::Required => Way::StartTls(tls(config, url.host())?),
            SmtpTls::None => Way::Plain,
        };
        let credentials = match (url.user(), &config.password) {
            (None, _) => None,
            (Some(_), _) if matches!(way, Way::Plain) => {
                return Err("provider.smtp.url: a password would go over the wire as it is; hint: leave the user out, or `tls`".to_owned());
            }
            (Some(_), None) => return Err("provider.smtp: a user without a password; hint: set `password_file`".to_owned()),
            (Some(user), Some(password)) => Some(Credentials::new(user, password.expose_secret().to_owned())),
        };
        Ok(Self {
            host: url.host().to_owned(),
            port: url.port(),
            way,
            hello: hello(config.hello_name.as_deref())?,
            credentials,
            connect_timeout: config.connect_timeout,
        })
    }

    /// A session in which mails can be handed over. Whoever waits for it bounds the time.
    pub async fn open(&self) -> Result<Session, Failed> {
        let mut smtp = self.connect().await.map_err(|failure| failure.at(Stage::Hello))?;
        if let Way::StartTls(tls) = &self.way {
            if !smtp.can_starttls() {
                return Err(Failure::Unable(NO_STARTTLS).at(Stage::StartTls));
            }
            smtp.starttls(tls.clone(), &self.hello).await.map_err(|error| Failure::from(error).at(Stage::StartTls))?;
        }
        if let Some(credentials) = &self.credentials {
            authenticate(&mut smtp, credentials).await.map_err(|failure| failure.at(Stage::Authentication))?;
        }
        Ok(Session::new(smtp))
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Failure> {
        let address = (self.host.as_str(), self.port);
        if let Way::Implicit(tls) = &self.way {
            let connecting = AsyncSmtpConnection::connect_tokio1(address, Some(self.connect_timeout), &self.hello, Some(tls.clone()), None);
            return Ok(connecting.await?);
        }
        let Ok(stream) = timeout(self.connect_timeout, TcpStream::connect(address)).await else {
            return Err(Failure::Lost(format!("no connection within {:?}", self.connect_timeout)));
        };
        let stream = stream?;
        // Each command is one packet that waits for its answer: nothing is gained by waiting for more.
        stream.set_nodelay(true)?;
        Ok(AsyncSmtpConnection::connect_with_transport(Box::new(PlainStream::new(stream)), &self.hello).await?)
    }
}

async fn authenticate(smtp: &mut AsyncSmtpConnection, credentials: &Credentials) -> Result<(), Failure> {
    if smtp.server_info().get_auth_mechanism(&MECHANISMS).is_none() {
        return Err(Failure::Unable(NO_MECHANISM));
    }
    smtp.auth(&MECHANISMS, credentials).await?;
    Ok(())
}

/// What the server has to prove itself with.
fn tls(config: &SmtpConfig, host: &str) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(path) = &config.ca_file {
        let problem = |reason: String| format!("provider.smtp.ca_file: {}: {reason}", path.display());
        let pem = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| problem(format!("not a certificate in PEM: {error}")))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build_rustls().map_err(|error| format!("provider.smtp: TLS cannot be set up: {error}"))
}

fn hello(name: Option<&str>) -> Result<ClientId, String> {
    let Some(name) = name else { return Ok(ClientId::default()) };
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if !(1..=HELLO_LIMIT).contains(&name.len()) || !name.bytes().all(is_allowed) {
        return Err("provider.smtp.hello_name: not a host name; hint: write it like \"notify.example.com\"".to_owned());
    }
    Ok(ClientId::Domain(name.to_owned()))
}
