//! The ways to reach Redis: passwords, TLS, sentinels, a cluster, and servers of an older kind.

use tarishi::socket::Bus;

use super::node::{Fixture, Node, bus_config};
use crate::support::{Certificates, Redis, until};

/// Two nodes hear each other over what these keys lead to.
async fn meet(fixture: &Fixture, keys: &[(&str, &str)]) -> (Node, Node) {
    let (a, b) = (fixture.start(&bus_config(keys)), fixture.start(&bus_config(keys)));
    a.linked().await;
    b.linked().await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        for number in 0..20 {
            let user = format!("user-{number}");
            let mut follower = to.follow(&user);
            let seq = fixture.store_item(&user).await;
            from.publish_item(&user, seq);
            follower.up_to(seq).await;
        }
    }
    (a, b)
}

/// Why it is refused.
async fn refused(fixture: &Fixture, keys: &[(&str, &str)]) -> String {
    let node = fixture.start(&bus_config(keys));
    until("it is said why", async || node.bus.status().unwrap().reason).await
}

#[tokio::test]
async fn with_a_password() {
    // What the manual says is enough, to the letter.
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bus.md")).unwrap();
    let (_, rules) = manual.split_once("ACL SETUSER ").unwrap();
    let rules = rules.split_once("```").unwrap().0.replace('\\', " ").replace(">PASSWORD", ">it's-secret");
    let arguments: Vec<&str> = ["--requirepass", "default's", "--user"].into_iter().chain(rules.split_whitespace()).collect();
    let mut redis = Redis::prepare(&arguments).with_login(":default's@");
    redis.start_again().await;
    let fixture = Fixture::new();
    let file = redis.folder().join("password");
    std::fs::write(&file, "it's-secret\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (host, file) = (redis.address(), file.to_str().unwrap());
    meet(&fixture, &[("bus.url", &format!("redis://tarishi@{host}/2")), ("bus.password_file", file)]).await;
    meet(&fixture, &[("bus.url", &format!("redis://:default%27s@{host}"))]).await;
    for url in [format!("redis://{host}"), format!("redis://tarishi:wrong@{host}")] {
        let reason = refused(&fixture, &[("bus.url", &url)]).await;
        assert!(reason.contains("refused: ") && reason.contains("bus.url") && !reason.contains("wrong"), "{reason}");
    }
    // Allowed less than is needed.
    let keys = [("bus.url", &*format!("redis://tarishi@{host}")), ("bus.password_file", file), ("bus.prefix", "other")];
    let reason = refused(&fixture, &keys).await;
    assert!(reason.contains("refused: "), "{reason}");
}

#[tokio::test]
async fn with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (certificates, port) = Certificates::make(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (port, key, certificate, ca) = (port.to_string(), path("server.key"), path("server.pem"), path("ca.pem"));
    let arguments =
        ["--tls-port", &port, "--bind", "127.0.0.1", "--tls-key-file", &key, "--tls-cert-file", &certificate, "--tls-ca-cert-file", &ca];
    let mut redis = Redis::prepare(&[&arguments[..], &["--port", "0"]].concat());
    redis.spawn(&[]);
    let fixture = Fixture::new();
    let url = format!("rediss://localhost:{port}");
    let file = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (ca, certificate, key) = (file(&certificates.ca), file(&certificates.client), file(&certificates.client_key));
    let keys = [("bus.url", &*url), ("bus.ca_file", &ca), ("bus.client_certificate_file", &certificate), ("bus.client_key_file", &key)];
    meet(&fixture, &keys).await;
    refused(&fixture, &keys[..2]).await;
    refused(&fixture, &[("bus.url", &url), ("bus.ca_file", &file(&certificates.stranger_ca)), keys[2], keys[3]]).await;
    let missing = refused(&fixture, &[("bus.url", &url), ("bus.ca_file", "/nowhere.pem")]).await;
    assert!(missing.starts_with("bus.ca_file: cannot read /nowhere.pem"), "{missing}");
}

#[tokio::test]
async fn a_server_without_shards() {
    let redis = Redis::start_with(&["--rename-command", "SPUBLISH", ""]).await;
    let fixture = Fixture::new();
    let (a, b) = meet(&fixture, &[("bus.url", &redis.url())]).await;
    assert!(!a.bus.status().unwrap().sharded);
    let follower = b.follow("42");
    let subscribers = async || redis.ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "tarishi:u:42"]).await.1;
    until("it is subscribed to", async || (subscribers().await == 1).then_some(())).await;
    drop(follower);
    until("it is not any more", async || (subscribers().await == 0).then_some(())).await;
    assert_eq!((a.sessions(), b.sessions()), (1, 1));
}

#[tokio::test]
async fn by_sentinels_to_whoever_is_master() {
    let mut master = Redis::start().await;
    let (host, port) = (master.address().ip().to_string(), master.address().port().to_string());
    let replica = Redis::start_with(&["--replicaof", &host, &port]).await;
    until("the replica has all", async || {
        let info: String = replica.ask(&["INFO", "replication"]).await;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    let mut sentinel = Redis::prepare(&[]);
    let file = sentinel.folder().join("sentinel.conf");
    let watched =
        format!("sentinel monitor main {host} {port} 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n");
    std::fs::write(&file, watched).unwrap();
    sentinel.spawn(&[file.to_str().unwrap(), "--sentinel"]);
    let fixture = Fixture::new();
    let url = format!("redis+sentinel://{}/main", sentinel.address());
    let (a, b) = meet(&fixture, &[("bus.url", &url)]).await;
    until("the sentinel knows the replica", async || {
        let replicas: redis::Value = sentinel.ask(&["SENTINEL", "REPLICAS", "main"]).await;
        format!("{replicas:?}").contains(&replica.address().ip().to_string()).then_some(())
    })
    .await;
    let mut there = b.follow("42");
    master.kill();
    let seq = fixture.store_item("42").await;
    a.publish_item("42", seq);
    there.up_to(seq).await;
    until("both are with the new master", async || {
        let channels = replica.shard_channels().await;
        (a.sessions() >= 2 && b.sessions() >= 2 && channels.iter().any(|channel| channel == "tarishi:u:42")).then_some(())
    })
    .await;
    let seq = fixture.store_item("42").await;
    a.publish_item("42", seq);
    there.up_to(seq).await;
    let reason = refused(&fixture, &[("bus.url", &format!("redis+sentinel://{}/another", sentinel.address()))]).await;
    assert!(reason.starts_with("connecting: "), "{reason}");
}

#[tokio::test]
async fn over_a_cluster() {
    let mut nodes = Vec::new();
    for slots in [["0", "8191"], ["8192", "16383"]] {
        let node = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]).await;
        let () = node.ask(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]).await;
        nodes.push(node);
    }
    let (host, port) = (nodes[1].address().ip().to_string(), nodes[1].address().port().to_string());
    let () = nodes[0].ask(&["CLUSTER", "MEET", &host, &port]).await;
    for node in &nodes {
        until("the cluster is whole", async || {
            let info: String = node.ask(&["CLUSTER", "INFO"]).await;
            (info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")).then_some(())
        })
        .await;
    }
    let fixture = Fixture::new();
    let url = format!("redis+cluster://{}", nodes[0].address());
    let (a, b) = meet(&fixture, &[("bus.url", &url)]).await;
    assert!(a.bus.status().unwrap().sharded);
    // In order within a stream, though streams lie on several nodes.
    let users: Vec<String> = (0..40).map(|number| format!("many-{number}")).collect();
    let mut followers: Vec<_> = users.iter().map(|user| b.follow(user)).collect();
    let subscribed = async |node: &Redis| node.shard_channels().await.iter().filter(|channel| channel.contains("many")).count();
    until("all are subscribed to", async || (subscribed(&nodes[0]).await + subscribed(&nodes[1]).await == 40).then_some(())).await;
    assert!(subscribed(&nodes[0]).await > 0 && subscribed(&nodes[1]).await > 0);
    for seq in 1..=20 {
        for user in &users {
            a.publish_item(user, seq);
        }
    }
    for follower in &mut followers {
        for seq in 1..=20 {
            assert_eq!(follower.raw().await, format!("item {seq}"));
        }
    }
    drop(followers);
    until("none is left", async || (subscribed(&nodes[0]).await + subscribed(&nodes[1]).await == 0).then_some(())).await;
    assert_eq!((a.sessions(), b.sessions()), (1, 1));
    let seen = async |bus: &Bus| bus.presence(&"42".parse().unwrap()).await.connections;
    let mut there = b.follow("42");
    until("it is known who is online", async || (seen(&a.bus).await == 1).then_some(())).await;
    assert!(a.bus.use_once("ticket", std::time::Duration::from_secs(30)).await.unwrap());
    assert!(!b.bus.use_once("ticket", std::time::Duration::from_secs(30)).await.unwrap());
    // One of its nodes goes away for a while.
    nodes[1].kill();
    b.unlinked().await;
    let seq = fixture.store_item("42").await;
    a.publish_item("42", seq);
    nodes[1].start_again().await;
    there.up_to(seq).await;
}
