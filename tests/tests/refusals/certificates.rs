//! Certificates that do not fit: of a stranger that dials, and of one that is dialled.

use super::*;

fn dated(cluster: &Cluster, not_before: SystemTime, not_after: SystemTime) -> NodeFiles {
    let request = NodeRequest { not_before, not_after, ..NodeRequest::new("node-x".parse().unwrap()) };
    cluster.authority().issue_node(&request).unwrap()
}

#[tokio::test]
async fn a_dialler_with_a_bad_certificate_is_refused_and_logged_once_in_plain_words() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        serves(&cluster).await;
        let now = SystemTime::now();
        let foreign = Authority::create(&"test".parse().unwrap()).unwrap();
        let foreign = foreign.issue_node(&NodeRequest::new("node-b".parse().unwrap())).unwrap();
        let good_uri = ["trunkline://test/node/node-x"];
        let strangers = [
            (Some(foreign), ALPN, "its certificate was signed by another CA"),
            (Some(dated(&cluster, now - 3 * HOUR, now - HOUR)), ALPN, "its certificate expired on 2"),
            (
                Some(dated(&cluster, now + HOUR, now + 3 * HOUR)),
                ALPN,
                "its certificate is not yet valid: it begins on 2",
            ),
            (
                Some(crafted(&cluster, &["trunkline://other/node/node-b"], &NODE_USAGES)),
                ALPN,
                "it belongs to cluster other, this one is test",
            ),
            (Some(crafted(&cluster, &[], &NODE_USAGES)), ALPN, "carries no trunkline://CLUSTER/node/ID name"),
            (
                Some(crafted(&cluster, &good_uri, &[Usage::ServerAuth])),
                ALPN,
                "its certificate is not usable for client authentication",
            ),
            (
                Some(crafted(&cluster, &["trunkline://test/admin/node-x"], &NODE_USAGES)),
                ALPN,
                "its certificate was issued for the role \"admin\", not for a node",
            ),
            (None, ALPN, "it presented no certificate"),
            (Some(member_files(&cluster, "node-x")), &b"h3"[..], "it does not speak trunkline/1"),
        ];
        for (files, alpn, sentence) in strangers {
            let stranger = Stranger::dialler(files.as_ref(), alpn);
            for _ in 0..ATTEMPTS {
                let ended = stranger.dial_to_the_end(node.udp).await;
                let ConnectionError::ConnectionClosed(close) = &ended else { panic!("{sentence}: {ended:?}") };
                assert_eq!(u64::from(close.error_code) & !0xff, CRYPTO_ERROR, "{sentence}: {close}");
            }
            logged_once(node, &["WARN", "refused a connection from 127.0.0.1", sentence]).await;
        }

        let impostor = Stranger::dialler(Some(&member_files(&cluster, "node-a")), ALPN);
        for _ in 0..ATTEMPTS {
            assert_eq!(closed_with(&impostor.dial_to_the_end(node.udp).await), Code::Forbidden);
        }
        logged_once(node, &["WARN", "refused a connection from 127.0.0.1", "it bears this node's own name"]).await;
        assert_eq!(node.status().await.trunks.len(), 1, "node-b's alone");
        serves(&cluster).await;
    })
    .await;
}

/// Opens a stream to node-b where `files` answer instead, and returns what the program and the log are told.
async fn dials_a_stranger(make: impl FnOnce(&Cluster) -> NodeFiles, sentence: &str) {
    let decoy = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut cluster = Cluster::builder()
        .config(|_, toml| toml.push_str("[limits]\nopen_timeout_ms = 900\n"))
        .peer_address(|_, _, _| decoy.to_string())
        .start()
        .await;
    let stranger = Stranger::server(&make(&cluster));
    // The node reads the address once, at its start.
    let node = cluster.node("node-a");
    let config = fs::read_to_string(&node.config).unwrap();
    fs::write(&node.config, config.replace(&decoy.to_string(), &stranger.address().to_string())).unwrap();
    node.kill();
    node.exited().await;
    cluster.restart("node-a").await;
    let node = cluster.node("node-a");

    let a = node.attach().await;
    let producer = a.job("job", RUN).unwrap().producer("producer").unwrap();
    let (opened, failed) = tokio::join!(producer.open("job/consumer@node-b"), stranger.failed_dials(2));
    let error = opened.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, Some(Code::Unreachable)), "{error}");
    assert!(error.to_string().contains(sentence), "{error}");
    assert_eq!(failed, 2, "dialled more than once");
    logged_once(node, &["WARN", "cannot reach node-b", sentence]).await;
    assert_eq!(node.status().await.trunks, []);
    let payloads = vec![Payload::mixed(Random::new(seed(), 0), 20, 20_000)];
    exchange("serves", &a, &a, "at-home", payloads).await;
}

#[tokio::test]
async fn a_node_that_is_not_the_one_that_was_dialled_is_refused() {
    in_time(dials_a_stranger(|cluster| member_files(cluster, "node-c"), "it is node-c, but node-b was dialled")).await;
}

#[tokio::test]
async fn a_dialled_node_with_an_expired_certificate_is_refused() {
    let expired = |cluster: &Cluster| {
        let now = SystemTime::now();
        dated(cluster, now - 3 * HOUR, now - HOUR)
    };
    in_time(dials_a_stranger(expired, "its certificate expired on 2")).await;
}

#[tokio::test]
async fn a_dialled_node_of_another_ca_is_refused() {
    let foreign = |_: &Cluster| {
        let authority = Authority::create(&"test".parse().unwrap()).unwrap();
        authority.issue_node(&NodeRequest::new("node-b".parse().unwrap())).unwrap()
    };
    in_time(dials_a_stranger(foreign, "its certificate was signed by another CA")).await;
}
