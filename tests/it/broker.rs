//! The tests' own RabbitMQ: that the shared node, private nodes, the client and the proxy do what other tests rely on.

use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::support::{Broker, Fate, Proxy, Rabbit, Vhost, persistent, text, until};

const QUEUE: &str = "a queue";

#[tokio::test]
async fn what_is_published_can_be_got() {
    let vhost = Vhost::new();
    let rabbit = Rabbit::connect(&vhost.url()).await;
    rabbit.declare(QUEUE, &[("x-max-length", AMQPValue::LongInt(3)), ("x-overflow", text("reject-publish"))]).await;
    assert!(rabbit.get(QUEUE).await.is_none());
    let mut headers = FieldTable::default();
    headers.insert("number".into(), AMQPValue::LongInt(7));
    headers.insert("name".into(), text("Asha"));
    rabbit.publish("", QUEUE, persistent().with_headers(headers).with_message_id("1".into()), b"{\"v\":1}").await.taken();
    let message = rabbit.get(QUEUE).await.unwrap();
    assert_eq!((message.json(), message.redelivered), (json!({ "v": 1 }), false));
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("", QUEUE));
    assert_eq!(message.properties.message_id().as_ref().unwrap().as_str(), "1");
    assert_eq!((&message.headers["number"], &message.headers["name"]), (&json!(7), &json!("Asha")));

    // What the broker says of a message is told as it is.
    let fate = rabbit.publish("", "nobody's", persistent(), b"").await;
    assert_eq!(fate, Fate::Returned("NO_ROUTE".to_owned()));
    rabbit.publish_many("", QUEUE, (0..3).map(|number| (persistent(), vec![number]))).await;
    assert_eq!(vhost.queue_depth(QUEUE).await, 3);
    let refused = until("the queue is full", async || {
        let fate = rabbit.publish("", QUEUE, persistent(), b"").await;
        (fate == Fate::Refused).then_some(fate)
    });
    assert_eq!(refused.await, Fate::Refused);
    let bodies: Vec<Vec<u8>> = rabbit.drain(QUEUE).await.into_iter().map(|message| message.body).collect();
    assert_eq!(bodies[..3], [[0], [1], [2]]);
}

#[tokio::test]
async fn subscriptions_wait_and_end() {
    let vhost = Vhost::new();
    let rabbit = Rabbit::connect(&vhost.url()).await;
    let mut events = rabbit.listen("tarishi.events", "delivery.*.sent").await;
    assert_eq!(rabbit.publish("tarishi.events", "delivery.email.failed", persistent(), b"0").await, Fate::Returned("NO_ROUTE".into()));
    for body in [b"1", b"2", b"3"] {
        rabbit.publish("tarishi.events", "delivery.email.sent", persistent(), body).await.taken();
    }
    assert_eq!(events.next().await.unwrap().body, b"1");
    assert_eq!(events.find(|message| (message.body == b"3").then_some(message.routing_key.clone())).await, "delivery.email.sent");

    rabbit.declare(QUEUE, &[]).await;
    rabbit.bind(QUEUE, "tarishi.events", "#").await;
    rabbit.publish("tarishi.events", "job.finished", persistent(), b"4").await.taken();
    assert_eq!(rabbit.next(QUEUE).await.body, b"4");
    let mut cancelled = rabbit.consume(QUEUE).await;
    vhost.delete_queue(QUEUE).await;
    assert!(cancelled.next().await.is_none(), "a deleted queue ends its consumers");

    // Of one virtual host only.
    let (other, others) = (Vhost::new(), Rabbit::connect(&vhost.url()).await);
    let bystander = Rabbit::connect(&other.url()).await;
    vhost.close_connections("a test").await;
    until("its connections are closed", async || (!rabbit.is_connected() && !others.is_connected()).then_some(())).await;
    bystander.declare(QUEUE, &[]).await;
}

#[tokio::test]
async fn a_private_broker_survives_what_is_done_to_it() {
    let mut broker = Broker::start().await;
    broker.add_vhost("own").await;
    let url = broker.url("own");
    let rabbit = Rabbit::connect(&url).await;
    rabbit.declare(QUEUE, &[]).await;
    rabbit.publish("", QUEUE, persistent(), b"kept").await.taken();

    broker.kill().await;
    until("the connection is lost", async || (!rabbit.is_connected()).then_some(())).await;
    assert!(Rabbit::try_connect(&url).await.is_err());
    assert!(rabbit.try_publish("", QUEUE, persistent(), b"lost").await.is_err());
    broker.start_again().await;
    let rabbit = Rabbit::connect(&url).await;
    assert_eq!(broker.queue_depth("own", QUEUE).await, 1);

    broker.restart().await;
    until("the connection is closed", async || (!rabbit.is_connected()).then_some(())).await;
    let rabbit = Rabbit::connect(&url).await;

    // An alarm blocks whoever publishes, until it is over.
    broker.memory_alarm(true).await;
    let publish = rabbit.publish("", QUEUE, persistent(), b"late");
    tokio::pin!(publish);
    let other = Rabbit::connect(&url).await;
    tokio::select! {
        biased;
        fate = &mut publish => panic!("{fate:?} under an alarm"),
        message = other.next(QUEUE) => assert_eq!(message.body, b"kept"),
    }
    broker.memory_alarm(false).await;
    publish.await.taken();
    broker.disk_alarm(true).await;
    broker.disk_alarm(false).await;

    // Paused, it answers nobody; afterwards it goes on.
    broker.pause();
    let got = rabbit.get(QUEUE);
    tokio::pin!(got);
    let mut connection = TcpStream::connect(broker.address()).await.unwrap();
    connection.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
    assert!(futures_util::poll!(got.as_mut()).is_pending());
    broker.resume();
    assert_eq!(got.await.unwrap().body, b"late");
    assert_ne!(connection.read_u8().await.unwrap(), b'A', "the protocol is taken");

    broker.close_all_connections("a test").await;
    until("all connections are closed", async || (!rabbit.is_connected() && !other.is_connected()).then_some(())).await;
    assert!(broker.ctl(&["list_vhosts"]).await.contains("own"));
    Rabbit::connect(&url).await.publish("", QUEUE, persistent(), b"more").await.taken();
    broker.delete_queue("own", QUEUE).await;
}

#[tokio::test]
async fn a_broker_with_tls_wants_a_certificate() {
    let broker = Broker::start_with_tls().await;
    let (url, certificates) = (broker.tls_url("/"), broker.certificates());
    let rabbit = Rabbit::try_connect_with_tls(&url, &certificates, true).await.unwrap();
    rabbit.declare(QUEUE, &[]).await;
    rabbit.publish("", QUEUE, persistent(), b"secret").await.taken();
    assert!(Rabbit::try_connect_with_tls(&url, &certificates, false).await.is_err(), "without a certificate");
    let mut mistaken = certificates.clone();
    mistaken.ca = certificates.stranger_ca.clone();
    assert!(Rabbit::try_connect_with_tls(&url, &mistaken, true).await.is_err(), "not signed by whom the client trusts");
    assert_eq!(Rabbit::connect(&broker.url("/")).await.next(QUEUE).await.body, b"secret");
}

#[tokio::test]
async fn the_client_reaches_the_broker_through_a_proxy() {
    let vhost = Vhost::new();
    let proxy = Proxy::start(vhost.address()).await;
    let rabbit = Rabbit::connect(&vhost.url_through(&proxy)).await;
    rabbit.declare(QUEUE, &[]).await;
    rabbit.publish("", QUEUE, persistent(), b"1").await.taken();
    proxy.corrupt();
    assert!(rabbit.try_publish("", QUEUE, persistent(), b"2").await.is_err(), "a confirm that is no frame");
    proxy.heal();
    let rabbit = Rabbit::connect(&vhost.url_through(&proxy)).await;
    proxy.cut();
    until("the connection is lost", async || (!rabbit.is_connected()).then_some(())).await;
    assert_eq!(proxy.accepted(), 2);
}

/// What the proxy does, seen from both of its sides.
mod proxy {
    use super::*;

    /// A connection through a new proxy: the client's end, and the server's.
    async fn connected() -> (Proxy, TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await;
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (proxy, listener, client, server)
    }

    async fn pass(from: &mut TcpStream, to: &mut TcpStream, sent: &[u8]) -> Vec<u8> {
        from.write_all(sent).await.unwrap();
        let mut got = vec![0; sent.len()];
        to.read_exact(&mut got).await.unwrap();
        got
    }

    /// What has come, without waiting for more than the proxy's own tasks.
    async fn arrived(stream: &TcpStream) -> usize {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        stream.try_read(&mut [0; 64]).unwrap_or(0)
    }

    #[tokio::test]
    async fn carries_both_ways_and_ends_with_its_sides() {
        let (_proxy, _listener, mut client, mut server) = connected().await;
        let large: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let half = &large[..100_000];
        assert_eq!(pass(&mut client, &mut server, half).await, half);
        assert_eq!(pass(&mut server, &mut client, half).await, half);
        drop(server);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "an orderly end");
    }

    #[tokio::test]
    async fn resets_what_it_cuts_and_takes_more() {
        let (proxy, listener, mut client, mut server) = connected().await;
        proxy.cut();
        for stream in [&mut client, &mut server] {
            let error = stream.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        assert_eq!(pass(&mut client, &mut server, b"again").await, b"again");
        assert_eq!(proxy.accepted(), 2);
    }

    #[tokio::test]
    async fn holds_everything_while_half_open() {
        let (proxy, listener, mut client, mut server) = connected().await;
        assert_eq!(pass(&mut client, &mut server, b"before").await, b"before");
        proxy.half_open();
        client.write_all(b"up").await.unwrap();
        server.write_all(b"down").await.unwrap();
        let mut late = TcpStream::connect(proxy.address()).await.unwrap();
        late.write_all(b"late").await.unwrap();
        until("it has taken the late one", async || (proxy.accepted() == 2).then_some(())).await;
        assert_eq!((arrived(&client).await, arrived(&server).await), (0, 0));
        proxy.heal();
        let mut got = [0; 4];
        server.read_exact(&mut got[..2]).await.unwrap();
        assert_eq!(&got[..2], b"up");
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"down");
        let (mut server, _) = listener.accept().await.unwrap();
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"late");
    }

    #[tokio::test]
    async fn slow_is_slow_and_whole() {
        let (proxy, _listener, mut client, mut server) = connected().await;
        proxy.slow(400);
        client.write_all(&[7; 100]).await.unwrap();
        let first = server.read(&mut [0; 100]).await.unwrap();
        assert!(first <= 20, "{first} bytes at once of 400 a second");
        let mut rest = vec![0; 100 - first];
        server.read_exact(&mut rest).await.unwrap();
        assert!(rest.iter().all(|byte| *byte == 7));
    }

    #[tokio::test]
    async fn corrupts_only_what_goes_to_the_client() {
        let (proxy, _listener, mut client, mut server) = connected().await;
        proxy.corrupt();
        assert_eq!(pass(&mut client, &mut server, b"up").await, b"up");
        assert_eq!(pass(&mut server, &mut client, &[0, 255, 1]).await, [255, 0, 254]);
        proxy.heal();
        assert_eq!(pass(&mut server, &mut client, b"well").await, b"well");
    }
}
