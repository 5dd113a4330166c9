//! A TCP proxy that stands between a daemon and what it talks to, and does to the bytes what networks do.
//!
//! It lives on the test's own runtime: what a method says holds from the moment it returns.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

const CHUNK: usize = 16 * 1024;
/// How often a slow connection may go on.
const TICKS_PER_SECOND: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Nothing goes through and nothing is closed, as when a cable is pulled: what is sent waits to be sent again.
    HalfOpen,
    /// Bytes per second, in each direction of each connection.
    Slow(u32),
    /// What goes to the client is not what was sent.
    Corrupt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToClient,
    ToServer,
}

/// A proxy to one address. Dropped, it resets everything.
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    cuts: watch::Sender<()>,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, cuts) = (watch::Sender::new(Fault::None), watch::Sender::new(()));
        let accepted = Arc::<AtomicUsize>::default();
        let accepting = tokio::spawn({
            let (fault, cuts, accepted) = (fault.subscribe(), cuts.subscribe(), accepted.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(carry(client, server, fault.clone(), cuts.clone()));
                }
            }
        });
        Self { address, fault, cuts, accepted, accepting }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Resets every connection there is. New ones go through.
    pub fn cut(&self) {
        self.cuts.send_replace(());
    }

    /// From now on nothing goes through, in either direction, and nobody is told. New connections are taken and lead nowhere.
    pub fn half_open(&self) {
        self.fault.send_replace(Fault::HalfOpen);
    }

    /// From now on each direction of each connection carries no more than so many bytes in a second.
    pub fn slow(&self, bytes_per_second: u32) {
        self.fault.send_replace(Fault::Slow(bytes_per_second));
    }

    /// From now on every byte to the client arrives with all its bits turned over.
    pub fn corrupt(&self) {
        self.fault.send_replace(Fault::Corrupt);
    }

    /// From now on everything goes through as it is; what waited, too.
    pub fn heal(&self) {
        self.fault.send_replace(Fault::None);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection, until both directions have ended or it is cut.
async fn carry(mut client: TcpStream, server: SocketAddr, mut fault: watch::Receiver<Fault>, mut cuts: watch::Receiver<()>) {
    cuts.mark_unchanged();
    tokio::select! {
        _ = cuts.changed() => return reset(&client),
        _ = fault.wait_for(|fault| *fault != Fault::HalfOpen) => {}
    }
    // Not given up halfway: a cut that comes meanwhile resets it as well.
    let Ok(mut server) = TcpStream::connect(server).await else { return reset(&client) };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let is_cut = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let to_server = pump(from_client, to_server, Direction::ToServer, fault.clone());
        let to_client = pump(from_server, to_client, Direction::ToClient, fault);
        tokio::select! {
            // Cut, or the proxy is gone.
            _ = cuts.changed() => true,
            _ = async { tokio::join!(to_server, to_client) } => false,
        }
    };
    if is_cut {
        reset(&client);
        reset(&server);
    }
}

/// Makes closing it a reset.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, direction: Direction, mut fault: watch::Receiver<Fault>) {
    let mut buffer = [0; CHUNK];
    loop {
        if fault.wait_for(|fault| *fault != Fault::HalfOpen).await.is_err() {
            return;
        }
        let now = *fault.borrow_and_update();
        let room = if let Fault::Slow(rate) = now { ((rate / TICKS_PER_SECOND) as usize).clamp(1, CHUNK) } else { CHUNK };
        let length = tokio::select! {
            // Before any further byte goes through.
            biased;
            _ = fault.changed() => continue,
            length = from.read(&mut buffer[..room]) => length.unwrap_or(0),
        };
        if now == Fault::Corrupt && direction == Direction::ToClient {
            buffer[..length].iter_mut().for_each(|byte| *byte = !*byte);
        }
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
        if let Fault::Slow(rate) = now {
            let pause = Duration::from_secs(1) / TICKS_PER_SECOND.min(rate);
            let _ = tokio::time::timeout(pause, fault.changed()).await;
        }
    }
}
