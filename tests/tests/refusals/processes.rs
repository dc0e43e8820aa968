//! Processes that do not keep to the rules of the local socket, and daemons that want what another has.

use super::*;

/// A process that speaks to a local socket without an SDK.
struct Raw {
    stream: UnixStream,
    decoder: Decoder,
}

impl Raw {
    fn connect(node: &Daemon) -> Self {
        let stream = UnixStream::connect(&node.local).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, decoder: Decoder::default() }
    }

    /// One that has greeted and is attached.
    fn attach(node: &Daemon) -> Self {
        let mut raw = Self::connect(node);
        raw.say(&link_hello(Offer::ours()).into());
        let Some(Frame::LinkHello(_)) = raw.hear() else { panic!("no HELLO") };
        raw
    }

    fn write(&mut self, bytes: &[u8]) {
        // The node may have closed already.
        let _ = self.stream.write_all(bytes);
    }

    fn say(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.write(&bytes);
    }

    /// The next frame, or `None` at the end.
    fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                // A reset: the node closed while bytes of ours were unread.
                Ok(0) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Ok(count) => self.decoder.buffer().extend_from_slice(&bytes[..count]),
                Err(error) => panic!("the node neither answers nor closes: {error}"),
            }
        }
    }

    /// Reads to the end, which must begin with the refusal of the whole link.
    fn refused(mut self) -> Refused {
        let mut refused = None;
        while let Some(frame) = self.hear() {
            assert!(refused.is_none(), "{frame:?} follows the refusal");
            if let Frame::Refused(said) = frame {
                assert_eq!(said.bind, 0);
                refused = Some(said);
            }
        }
        refused.expect("a refusal")
    }
}

fn link_hello(offer: Offer) -> LinkHello {
    LinkHello { offer, software: "raw".to_owned(), cluster: String::new(), node: None, pid: 1, patience_ms: 0 }
}

#[tokio::test]
async fn a_process_that_does_not_greet_as_it_should_is_refused_and_logged_once() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let encoded = |frame: Frame| {
            let mut bytes = BytesMut::new();
            frame.encode(&mut bytes);
            bytes.to_vec()
        };
        let future = Offer { version_min: 7, version_max: 9, features: Vec::new() };
        let greetings = [
            (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec(), Code::Protocol, "a frame of kind 0x47 declares"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), Code::Protocol, "a frame of kind 0x16 declares"),
            (prefix(0x01, CONTROL_BYTES_MAX + 1), Code::Protocol, "a frame of kind 0x01 declares 16385 bytes"),
            (prefix(0x30, usize::try_from(u32::MAX).unwrap()), Code::Protocol, "a frame of kind 0x30 declares"),
            ([prefix(0x01, 4), vec![0xff; 4]].concat(), Code::Protocol, "a frame of kind 0x01 does not parse"),
            (prefix(0x7f, 0), Code::Unsupported, "a mandatory frame of unknown kind 0x7f"),
            (encoded(hello().into()), Code::Protocol, "the first frame was no HELLO"),
            (encoded(link_hello(future).into()), Code::Version, "no common version: this side speaks 1 to 1"),
            (Vec::new(), Code::Protocol, "no HELLO came in time"),
            (prefix(0x01, 100), Code::Protocol, "no HELLO came in time"),
        ];
        for (greeting, code, sentence) in &greetings {
            for _ in 0..ATTEMPTS {
                let mut raw = Raw::connect(node);
                raw.write(greeting);
                let refused = raw.refused();
                assert_eq!(refused.code, *code, "{sentence}");
                assert!(refused.text.contains(sentence), "{refused:?}");
            }
            logged_once(node, &["WARN", "refused a process of uid", sentence]).await;
        }
        // Who only looks whether somebody serves is no news.
        let lines = node.log().lines().count();
        for _ in 0..100 {
            drop(Raw::connect(node));
        }
        serves(&cluster).await;
        assert_eq!(node.log().lines().filter(|line| line.contains("WARN")).count(), greetings.len() - 1);
        assert!(node.log().lines().count() <= lines + 2, "{}", node.log());
    })
    .await;
}

#[tokio::test]
async fn an_attached_process_that_breaks_the_rules_is_cut_off_and_the_others_go_on() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let home = node.attach().await;
        let mut consumer = bind(&home, "sink").await;
        let open = |stream| Frame::from(Open { stream, ..open_frame("node-a", "sink", stream) });
        let data = |stream| {
            Frame::Data(DataHeader { stream, offset: 0, epoch: 0, fin: false }, Bytes::from_static(&[1, b'x']))
        };
        let credit = |stream| Frame::from(Credit { stream, limit: 100, ..Credit::default() });
        let faults: [(Vec<Frame>, &str); 9] = [
            (vec![open(3)], "stream id 3 is odd, or was used before"),
            (vec![open(0)], "stream id 0 is odd, or was used before"),
            (vec![open(4), open(4)], "stream id 4 is odd, or was used before"),
            (vec![open(6), open(2)], "stream id 2 is odd, or was used before"),
            (vec![open(2), credit(2)], "a consumer's frame on a stream it sends"),
            (
                vec![
                    open(2),
                    Accept { stream: 2, incarnation: Incarnation::from_bytes(&[1; 16]).unwrap(), limit: 9 }.into(),
                ],
                "a consumer's frame on a stream it sends",
            ),
            (vec![link_hello(Offer::ours()).into()], "a frame that a process does not send"),
            (vec![Drain { deadline_ms: 1 }.into()], "a frame that a process does not send"),
            (
                vec![Refused { bind: 1, code: Code::Busy, text: String::new() }.into()],
                "a frame that a process does not send",
            ),
        ];
        for (frames, sentence) in &faults {
            for _ in 0..ATTEMPTS {
                let mut raw = Raw::attach(node);
                frames.iter().for_each(|frame| raw.say(frame));
                let refused = raw.refused();
                assert_eq!(refused.code, Code::Protocol, "{sentence}");
                assert!(refused.text.contains(sentence), "{refused:?}");
            }
            logged_once(node, &["WARN", "cut off a process of uid", sentence]).await;
        }
        for (bytes, code) in [
            (prefix(0x7f, 0), Code::Unsupported),
            (prefix(0x30, DATA_BYTES_MAX + 21), Code::Protocol),
            (prefix(0x30, 19), Code::Protocol),
            (prefix(0x20, CONTROL_BYTES_MAX + 1), Code::Protocol),
        ] {
            let mut raw = Raw::attach(node);
            raw.write(&bytes);
            assert_eq!(raw.refused().code, code, "{bytes:02x?}");
        }

        // Frames for streams that are over, or never were, are nobody's.
        let mut raw = Raw::attach(node);
        for frame in [data(2), data(3), credit(1), credit(2), Want { stream: 8, wanted: 9, epoch: 0 }.into()] {
            raw.say(&frame);
        }
        let name = JobId { name: "raw".parse().unwrap(), run: RUN.parse().unwrap() };
        let incarnation = Incarnation::from_bytes(&[1; 16]).unwrap();
        let taken = Bind {
            bind: 1,
            job: name,
            consumer: "sink".parse().unwrap(),
            incarnation,
            resumes_only: false,
            awaited_nodes: Vec::new(),
        };
        raw.say(&taken.into());
        let Some(Frame::Refused(refused)) = raw.hear() else { panic!("no answer to BIND") };
        assert_eq!((refused.bind, refused.code), (1, Code::AlreadyBound));
        // Bytes before ACCEPT end the stream, not the link.
        raw.say(&Open { stream: 2, ..open_frame("node-a", "nobody", 2) }.into());
        raw.say(&data(2));
        let Some(Frame::Abort(abort)) = raw.hear() else { panic!("no ABORT") };
        assert_eq!((abort.stream, abort.code), (2, Code::Protocol));
        drop(raw);

        // Those that were cut off had opened some, which the consumer was offered and told the end of.
        let fellow = node.attach().await;
        let producer = fellow.job("raw", RUN).unwrap().producer("fellow").unwrap();
        let mut sender = producer.open("raw/sink@node-a").await.unwrap();
        sender.send(Bytes::from_static(b"hi")).await.unwrap();
        let mut receiver = loop {
            let mut receiver = consumer.accept().await.unwrap();
            if receiver.producer().name.as_str() == "fellow" {
                break receiver;
            }
            let error = receiver.recv().await.unwrap_err();
            assert_eq!(error.code(), Some(Code::ProducerGone), "{error}");
        };
        assert_eq!(receiver.recv().await.unwrap(), Some(Bytes::from_static(b"hi")));
        let (finished, end) = tokio::join!(sender.finish(), receiver.recv());
        finished.unwrap();
        assert_eq!(end.unwrap(), None);
        drop((home, fellow));
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn garbage_on_the_local_socket_costs_no_memory() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        serves(&cluster).await;
        let before = resident_bytes(node.pid);
        let mut random = Random::new(seed(), 2);
        for _ in 0..300 {
            let mut raw = if random.below(2) == 0 { Raw::connect(node) } else { Raw::attach(node) };
            let length = random.below(100_000);
            raw.write(&random.bytes(length));
        }
        serves(&cluster).await;
        let grown = resident_bytes(node.pid).saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        cluster.carries_nothing().await;
    })
    .await;
}

/// Starts a second daemon with the configuration of the first but for what `change` does to it; it must fail.
fn second_daemon(cluster: &Cluster, change: impl Fn(String) -> String) -> String {
    let node = cluster.node("node-a");
    let config = cluster.folder().join("second.toml");
    fs::write(&config, change(fs::read_to_string(&node.config).unwrap())).unwrap();
    let mut command = Command::new(binaries::node());
    let output = command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

fn any_port(config: &str, udp: SocketAddr) -> String {
    config.replace(&format!("listen = \"{udp}\""), &format!("listen = \"{}:0\"", udp.ip()))
}

#[tokio::test]
async fn a_second_daemon_on_the_same_port_or_socket_says_so_and_the_first_goes_on() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let kept = node.attach().await;
        let own_sockets =
            |config: String| config.replace("local.sock", "local-2.sock").replace("admin.sock", "admin-2.sock");

        let said = second_daemon(&cluster, own_sockets);
        let sentence = format!("cannot listen on UDP {}", node.udp);
        assert!(said.contains(&sentence) && said.contains("is another node running there?"), "{said}");
        assert!(!node.local.with_file_name("local-2.sock").exists(), "it leaves nothing behind");

        let said = second_daemon(&cluster, |config| any_port(&config, node.udp));
        assert!(said.contains(&format!("another process serves {}", node.local.display())), "{said}");

        let admin_only = |config: String| any_port(&config, node.udp).replace("local.sock", "local-3.sock");
        let said = second_daemon(&cluster, admin_only);
        assert!(said.contains(&format!("another process serves {}", node.admin.display())), "{said}");

        exchange("kept", &kept, &kept, "consumer", vec![Payload::mixed(Random::new(seed(), 0), 5, 5_000)]).await;
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_daemon_left_is_replaced() {
    in_time(async {
        let mut cluster = cluster().await;
        serves(&cluster).await;
        cluster.node("node-a").kill();
        cluster.node("node-a").exited().await;
        let node = cluster.node("node-a");
        assert!(node.local.exists() && node.admin.exists(), "it had no time to remove them");
        cluster.restart("node-a").await;
        let node = cluster.node("node-a");
        let a = node.attach().await;
        exchange("home", &a, &a, "consumer", vec![Payload::mixed(Random::new(seed(), 0), 5, 5_000)]).await;
    })
    .await;
}
