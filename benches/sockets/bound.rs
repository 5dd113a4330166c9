//! The bound: accepts, upgrades, and writes bytes that are framed once to the sockets that are asked for. Nothing else.
//!
//! Asked over HTTP like the others, so that asking costs the same: `POST /all`, `POST /user/<number>`.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    thread::available_parallelism,
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{Fallible, frame};

/// Longest request head, and longest body, in bytes.
const REQUEST_LIMIT: usize = 64 * 1024;

/// Says where it is, and serves until its standard input ends.
pub fn run() -> Fallible<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let sockets = Arc::new(Sockets { writers: available_parallelism()?.get(), by_user: RwLock::default() });
    let addresses = runtime.block_on(async {
        let (public, control) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let addresses = (public.local_addr()?, control.local_addr()?);
        tokio::spawn(accept(public, Arc::clone(&sockets), serve));
        tokio::spawn(accept(control, sockets, take_orders));
        Ok::<(SocketAddr, SocketAddr), io::Error>(addresses)
    })?;
    println!("{}", json!({ "sockets": addresses.0, "publish": addresses.1 }));
    io::stdin().read_to_end(&mut Vec::new())?;
    // Fifteen thousand tasks need not be dropped one by one.
    runtime.shutdown_background();
    Ok(())
}

struct Sockets {
    /// Tasks that share one message to all.
    writers: usize,
    by_user: RwLock<Vec<Option<Arc<TcpStream>>>>,
}

impl Sockets {
    fn set(&self, user: usize, stream: Option<Arc<TcpStream>>) {
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        if by_user.len() <= user {
            by_user.resize(user + 1, None);
        }
        by_user[user] = stream;
    }

    fn write_one(&self, user: usize, frame: &Arc<Vec<u8>>) {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(stream)) = by_user.get(user) {
            write(stream, frame);
        }
    }

    fn write_share(&self, share: usize, frame: &Arc<Vec<u8>>) {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        for stream in by_user.iter().skip(share).step_by(self.writers).flatten() {
            write(stream, frame);
        }
    }

    async fn write_all(self: &Arc<Self>, frame: Arc<Vec<u8>>) {
        let shares: Vec<_> = (0..self.writers)
            .map(|share| {
                let (sockets, frame) = (Arc::clone(self), Arc::clone(&frame));
                tokio::spawn(async move { sockets.write_share(share, &frame) })
            })
            .collect();
        for share in shares {
            let _panicked = share.await;
        }
    }
}

/// What the kernel does not take at once is left to a task.
fn write(stream: &Arc<TcpStream>, frame: &Arc<Vec<u8>>) {
    let mut written = match stream.try_write(frame) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(_) => return,
    };
    if written == frame.len() {
        return;
    }
    let (stream, frame) = (Arc::clone(stream), Arc::clone(frame));
    tokio::spawn(async move {
        while written < frame.len() && stream.writable().await.is_ok() {
            match stream.try_write(&frame[written..]) {
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    });
}

async fn accept<F>(
    listener: TcpListener,
    sockets: Arc<Sockets>,
    serve: impl Fn(TcpStream, Arc<Sockets>) -> F + Copy + Send + Sync + 'static,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        if stream.set_nodelay(true).is_ok() {
            tokio::spawn(serve(stream, Arc::clone(&sockets)));
        }
    }
}

async fn serve(stream: TcpStream, sockets: Arc<Sockets>) -> io::Result<()> {
    let stream = Arc::new(stream);
    let user = upgrade(&stream).await?;
    sockets.set(user, Some(Arc::clone(&stream)));
    let ended = discard(&stream).await;
    sockets.set(user, None);
    ended
}

async fn upgrade(stream: &TcpStream) -> io::Result<usize> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => head.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if head.len() > REQUEST_LIMIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).ok_or(io::ErrorKind::InvalidData)?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.writable().await?;
    stream.try_write(answer.as_bytes())?;
    Ok(user_in(&head))
}

/// The number that ends the request's path.
fn user_in(head: &str) -> usize {
    head.split(' ').nth(1).and_then(|path| path.rsplit('/').next()?.parse().ok()).unwrap_or_default()
}

/// Its own function, so that nothing of the upgrade is kept while a socket idles.
async fn discard(stream: &TcpStream) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match stream.try_read(&mut [0; 512]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn take_orders(stream: TcpStream, sockets: Arc<Sockets>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 || head.len() > REQUEST_LIMIT {
                return Ok(());
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        let mut body = vec![0; length.unwrap_or_default().min(REQUEST_LIMIT)];
        stream.read_exact(&mut body).await?;
        let frame = Arc::new(frame::text(&body));
        if head.starts_with("POST /all ") {
            sockets.write_all(frame).await;
        } else {
            sockets.write_one(user_in(&head), &frame);
        }
        stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await?;
    }
}
