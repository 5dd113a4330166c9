//! TLS as a client sees it, with certificates made for the occasion, and connections from addresses of our choice.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate that signs itself, for `localhost`, and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub file: PathBuf,
    pub key_file: PathBuf,
}

impl Certificate {
    /// Makes it in `folder`, over one of the same name.
    pub fn make(folder: &Path, name: &str) -> Self {
        let (file, key_file) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key_file)
            .arg("-out")
            .arg(&file)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { file, key_file }
    }

    /// As the wire has it.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.file).unwrap()
    }

    /// Certificate and key in one file, as some proxies want them.
    pub fn joined(&self, file: &Path) {
        fs::write(file, [fs::read(&self.file).unwrap(), fs::read(&self.key_file).unwrap()].concat()).unwrap();
    }
}

/// A connection to `address` from one of this machine's own addresses.
pub async fn connect(address: SocketAddr, from: &str) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0))?;
    socket.connect(address).await
}

/// The same with TLS, believing in `certificate` alone.
pub async fn connect_tls(address: SocketAddr, from: &str, certificate: &Certificate) -> io::Result<TlsStream<TcpStream>> {
    super::install_cryptography();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), connect(address, from).await?).await
}
