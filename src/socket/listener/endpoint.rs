//! What connections come in on: TCP ports and Unix sockets, bound and, where they are files, removed again.

use std::{
    fs::{self, Permissions},
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::config::ListenAddress;

/// Connections the kernel completes for us while we are busy: a restart brings thousands at once. The system's own limit
/// (`net.core.somaxconn`, 4096 by default) may be lower.
const BACKLOG: u32 = 4096;

/// Bound, and not served yet. A Unix socket's file goes when this does.
#[derive(Debug)]
pub enum Endpoint {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("there is something else than a socket")]
    NotASocket,
    #[error("somebody listens there")]
    InUse,
}

impl BindError {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InUse => "is another tarishi running? stop it, or set another path",
            Self::NotASocket => "it is not ours to remove; set another path",
            Self::Io(error) => match error.kind() {
                io::ErrorKind::AddrInUse => "is another tarishi running? stop it, or set another port",
                io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege, Unix sockets a folder this user may write in",
                io::ErrorKind::NotFound => "the folder has to exist (systemd: RuntimeDirectory=)",
                _ => "it must be an address of this machine",
            },
        }
    }
}

/// A connection that came in.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Endpoint {
    /// `socket_mode`: the permissions of a Unix socket's file.
    ///
    /// # Errors
    /// It cannot be listened on; a file that is no socket, or one that is in use, is left as it is.
    pub async fn bind(address: &ListenAddress, socket_mode: u32) -> Result<Self, BindError> {
        match address {
            ListenAddress::Tcp(address) => Ok(Self::Tcp(bind_tcp(*address)?)),
            ListenAddress::Unix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path)?;
                let file = SocketFile::of(path)?;
                fs::set_permissions(path, Permissions::from_mode(socket_mode))?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// Where it is in fact: with the port that the system chose.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(_, file) => Ok(ListenAddress::Unix(file.path.clone())),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of the daemon before us may still be winding down.
    socket.set_reuseaddr(true)?;
    // Without it small frames wait for the peer's delayed ACK (SOCKETS.md, section 3). What is accepted has it from here.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Removes the socket that a daemon left which had no time to.
async fn remove_stale(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        // A full backlog is somebody too.
        Ok(_) => Err(BindError::InUse),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse),
        Err(error) => Err(error.into()),
    }
}

/// The file of a Unix socket. Dropped, it is removed, if it is still the one that was made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // If it cannot be removed, the next start finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind(path: &Path) -> Result<Endpoint, BindError> {
        Endpoint::bind(&ListenAddress::Unix(path.to_owned()), 0o660).await
    }

    #[tokio::test]
    async fn a_unix_socket_has_its_mode_and_goes_with_its_endpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("public.sock");
        let endpoint = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert_eq!(endpoint.address().unwrap(), ListenAddress::Unix(path.clone()));
        assert!(matches!(bind(&path).await, Err(BindError::InUse)));
        assert!(path.exists(), "one that is in use is left alone");
        drop(endpoint);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("public.sock");
        // What a killed daemon leaves: std removes no file.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let endpoint = bind(&path).await.unwrap();
        // Somebody put another in its place: not ours to remove.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "not a socket").unwrap();
        drop(endpoint);
        assert!(matches!(bind(&path).await, Err(BindError::NotASocket)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a socket");
        let missing = bind(&folder.path().join("missing/public.sock")).await.unwrap_err();
        assert!(missing.hint().starts_with("the folder has to exist"), "{missing}");
    }

    #[tokio::test]
    async fn tcp_tells_the_port_it_got_and_does_not_collect_small_writes() {
        let endpoint = Endpoint::bind(&"127.0.0.1:0".parse().unwrap(), 0).await.unwrap();
        let address = endpoint.address().unwrap();
        assert_ne!(address.tcp().unwrap().port(), 0);
        let (client, accepted) = tokio::join!(TcpStream::connect(address.tcp().unwrap()), endpoint.accept());
        let Accepted::Tcp(stream, peer) = accepted.unwrap() else { panic!("not over TCP") };
        assert_eq!(peer, client.unwrap().local_addr().unwrap());
        assert!(stream.nodelay().unwrap(), "small frames would wait");
        let error = Endpoint::bind(&address, 0).await.unwrap_err();
        assert!(error.hint().starts_with("is another tarishi running?"), "{error}");
    }
}
