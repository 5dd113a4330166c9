//! The people: sockets of their own process, so that what they cost is nobody's figure.

use std::{
    io::{self, BufRead as _},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _, future::try_join_all};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tarishi::{model::Timestamp, socket::sign_development_token};
use tokio::{net::TcpStream, sync::Barrier, time::timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::Fallible;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages of each conversation before the time counts.
const WARM_UP: usize = 5;

/// What a worker is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub address: SocketAddr,
    pub secret: String,
    /// The people of each conversation.
    pub conversations: Vec<Talk>,
    pub seconds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Talk {
    pub id: i64,
    pub users: Vec<u64>,
}

/// What a worker tells.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Told {
    pub messages: u64,
    pub deliveries: u64,
    pub seconds: f64,
    /// From a message's sending until the last of all has it, in milliseconds, ascending.
    pub latencies: Vec<f64>,
}

type Socket = WebSocketStream<TcpStream>;

/// Connects, says `ready`, waits for a line, talks, and tells.
pub fn run() -> Fallible<()> {
    let mut lines = io::stdin().lock().lines();
    let order: Order = serde_json::from_str(&lines.next().ok_or("no order")??)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(async {
        let order = Arc::new(order);
        let mut talks = Vec::new();
        for talk in &order.conversations {
            let mut sockets = Vec::new();
            for user in &talk.users {
                sockets.push(connect(&order, talk.id, *user).await?);
            }
            talks.push(sockets);
        }
        println!("ready");
        lines.next().ok_or("nobody says go")??;
        let begin = Arc::new(Barrier::new(talks.len()));
        let each = talks.into_iter().map(|sockets| chat(sockets, Duration::from_secs(order.seconds), begin.clone()));
        let each = try_join_all(each).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(each.into_iter().fold(Told::default(), Told::and))
    })?;
    println!("{}", serde_json::to_string(&told)?);
    Ok(())
}

impl Told {
    fn and(mut self, other: Self) -> Self {
        self.messages += other.messages;
        self.deliveries += other.deliveries;
        self.seconds = self.seconds.max(other.seconds);
        self.latencies.extend(other.latencies);
        self
    }
}

async fn connect(order: &Order, conversation: i64, user: u64) -> Fallible<Socket> {
    let secret = order.secret.clone().into();
    let token = sign_development_token(&secret, None, &user.to_string().parse()?, Duration::from_hours(1), Timestamp::now());
    let stream = TcpStream::connect(order.address).await?;
    stream.set_nodelay(true)?;
    let url = format!("ws://{}/ws/chat/{conversation}/?token={token}", order.address);
    Ok(timeout(PATIENCE, client_async(url, stream)).await??.0)
}

/// One message after the other, each from the next of them, once all have the one before.
async fn chat(mut sockets: Vec<Socket>, time: Duration, begin: Arc<Barrier>) -> Fallible<Told> {
    for number in 0..WARM_UP {
        say(&mut sockets, number).await?;
    }
    begin.wait().await;
    let (started, mut told, mut number) = (Instant::now(), Told::default(), WARM_UP);
    while started.elapsed() < time {
        let sent = Instant::now();
        say(&mut sockets, number).await?;
        told.latencies.push(sent.elapsed().as_secs_f64() * 1e3);
        told.messages += 1;
        told.deliveries += sockets.len() as u64;
        number += 1;
    }
    told.seconds = started.elapsed().as_secs_f64();
    Ok(told)
}

async fn say(sockets: &mut [Socket], number: usize) -> Fallible<()> {
    let content = format!("Is the flat still free? {number}");
    let sender = number % sockets.len();
    sockets[sender].send(Message::text(json!({ "type": "message", "content": content }).to_string())).await?;
    for socket in sockets {
        loop {
            let message = timeout(PATIENCE, socket.next()).await?.ok_or("a socket ended")??;
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(&text)?;
            match frame["type"].as_str() {
                Some("message") if frame["message"]["content"] == content => break,
                Some("message") => return Err(format!("{content:?} was expected, and came: {frame}").into()),
                Some("error") => return Err(format!("refused: {frame}").into()),
                _ => {}
            }
        }
    }
    Ok(())
}
