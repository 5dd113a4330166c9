//! What the public listener proves its name with: a certificate and its key from files, read again on demand.

use std::{
    fmt::{self, Display, Formatter},
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{self, Ticketer},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;

/// Largest file read, in bytes; a chain is a few KiB.
const FILE_LIMIT: u64 = 1024 * 1024;
/// Permission bits that let everyone on the machine at a file.
const OTHERS: u32 = 0o007;
/// The one protocol that is spoken here (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// A certificate in use, and where the next one comes from.
#[derive(Debug)]
pub struct Tls {
    certificate_file: PathBuf,
    key_file: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

/// Which of the two files something is wrong with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    Certificate,
    Key,
}

/// Why the files cannot be used.
#[derive(Debug)]
pub struct TlsProblem {
    pub file: TlsFile,
    pub path: PathBuf,
    pub problem: String,
    pub hint: String,
}

impl Display for TlsProblem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (hint: {})", self.path.display(), self.problem, self.hint)
    }
}

impl Tls {
    /// Reads both files; blocks.
    ///
    /// # Errors
    /// They cannot be read, are not PEM, do not fit together, or the key is everybody's.
    pub fn load(certificate_file: PathBuf, key_file: PathBuf) -> Result<Self, TlsProblem> {
        let config = RwLock::new(read(&certificate_file, &key_file)?);
        Ok(Self { certificate_file, key_file, config })
    }

    /// Reads both files again; blocks. Connections that come in from now on get what is in them.
    ///
    /// # Errors
    /// As for [`Self::load`]; then what was in use stays in use.
    pub fn reload(&self) -> Result<(), TlsProblem> {
        let config = read(&self.certificate_file, &self.key_file)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn read(certificate_file: &Path, key_file: &Path) -> Result<Arc<ServerConfig>, TlsProblem> {
    let about = |file: TlsFile| {
        let path = if file == TlsFile::Certificate { certificate_file } else { key_file };
        move |problem: String, hint: &str| TlsProblem { file, path: path.to_owned(), problem, hint: hint.to_owned() }
    };
    let (about_certificate, about_key) = (about(TlsFile::Certificate), about(TlsFile::Key));
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let hint = "check that the file exists and this user may read it";
    let (certificate, _) = read_file(certificate_file).map_err(|error| about_certificate(unreadable(error), hint))?;
    let (key, mode) = read_file(key_file).map_err(|error| about_key(unreadable(error), hint))?;
    if mode & OTHERS != 0 {
        let hint = format!("chmod 600 {}", key_file.display());
        return Err(about_key(format!("may be used by everyone on this machine (mode {:o})", mode & 0o777), &hint));
    }
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| about_certificate(format!("is not PEM: {error}"), "it begins with -----BEGIN CERTIFICATE-----"))?;
    if chain.is_empty() {
        return Err(about_certificate("has no certificate".to_owned(), "it begins with -----BEGIN CERTIFICATE-----"));
    }
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| about_key(format!("has no key: {error}"), "a PEM file with one PRIVATE KEY, without a password"))?;
    let wrong = |error: rustls::Error| about_certificate(format!("cannot be used: {error}"), "is it that of this key?");
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(wrong)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Whoever comes back after a restart or a lost network needs no second full handshake, and we keep nothing for it.
    config.ticketer = Ticketer::new().map_err(wrong)?;
    Ok(Arc::new(config))
}

fn read_file(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut bytes = Vec::new();
    if file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)? as u64 > FILE_LIMIT {
        return Err(io::Error::other("too large"));
    }
    Ok((bytes, mode))
}
