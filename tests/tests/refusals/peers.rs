//! Peers with a good certificate that do not keep to the rules, and what comes to the UDP port otherwise.

use super::*;

/// What follows the handshake.
enum Greeting {
    Nothing,
    Bytes(Vec<u8>),
    Frame(Frame),
}

#[tokio::test]
async fn a_peer_that_does_not_greet_as_it_should_is_refused_and_logged_once() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let stranger = Stranger::member(&cluster, "node-x");
        let future = Offer { version_min: 7, version_max: 9, features: Vec::new() };
        let greetings = [
            (Greeting::Nothing, Code::Protocol, "it did not say HELLO in time"),
            (Greeting::Bytes(prefix(2, 10)), Code::Protocol, "it did not say HELLO in time"),
            (
                Greeting::Frame(trunkline_proto::message::TrunkHello { offer: future, ..hello() }.into()),
                Code::Version,
                "no common version: this side speaks 1 to 1, the other 7 to 9",
            ),
            (Greeting::Frame(open_frame("node-a", "x", 1).into()), Code::Protocol, "its first frame was no HELLO"),
            (
                Greeting::Bytes(prefix(2, CONTROL_BYTES_MAX + 1)),
                Code::Protocol,
                "a frame of kind 0x02 declares 16385 bytes, more than 16384",
            ),
            (Greeting::Bytes(prefix(0x7f, 0)), Code::Unsupported, "a mandatory frame of unknown kind 0x7f"),
        ];
        for (greeting, code, sentence) in &greetings {
            for _ in 0..ATTEMPTS {
                let connection = stranger.dial(node.udp).await.unwrap();
                let mut trunk = Trunk::open(connection).await;
                match greeting {
                    Greeting::Nothing => {}
                    Greeting::Bytes(bytes) => trunk.control.write(bytes).await,
                    Greeting::Frame(frame) => trunk.say(frame).await,
                }
                assert_eq!(trunk.closed().await, *code, "{sentence}");
            }
            logged_once(node, &["WARN", "refused a connection from 127.0.0.1", sentence]).await;
        }
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_of_the_control_stream_loses_the_connection_alone() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let stranger = Stranger::member(&cluster, "node-x");
        let encoded = |frame: Frame| {
            let mut bytes = BytesMut::new();
            frame.encode(&mut bytes);
            bytes.to_vec()
        };
        let faults = [
            (encoded(hello().into()), Code::Protocol),
            (encoded(open_frame("node-a", "x", 1).into()), Code::Protocol),
            (encoded(Credit { limit: 1, ..Credit::default() }.into()), Code::Protocol),
            (prefix(0x40, CONTROL_BYTES_MAX + 1), Code::Protocol),
            (prefix(0x30, usize::try_from(u32::MAX).unwrap()), Code::Protocol),
            ([prefix(0x40, 2), vec![0xff, 0xff]].concat(), Code::Protocol),
            (prefix(0x7f, 0), Code::Unsupported),
        ];
        for (fault, code) in faults {
            let mut trunk = stranger.attach(node.udp).await;
            trunk.control.write(&fault).await;
            assert_eq!(trunk.closed().await, code, "{fault:02x?}");
        }
        // What is marked as optional is skipped.
        let mut trunk = stranger.attach(node.udp).await;
        let mut optional = prefix(0x7f, 3);
        optional[1] = 0x80;
        optional.extend_from_slice(&[1, 2, 3]);
        trunk.control.write(&optional).await;
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-b", "x", 1).into()).await;
        assert_eq!(trunk.hear_abort(stream.id()).await.code, Code::UnknownNode);
        serves(&cluster).await;
    })
    .await;
}

/// Checks that a stream was ended with `code`: named on the control stream, reset, and stopped.
async fn assert_ended(trunk: &mut Trunk, stream: &mut Channel, code: Code) {
    let id = stream.id();
    assert_eq!(trunk.hear_abort(id).await.code, code, "stream {id}");
    loop {
        match stream.hear().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("stream {id} ended cleanly"),
            Err(reset) => break assert_eq!(reset, code, "stream {id}"),
        }
    }
    let stopped = stream.send.stopped().await.unwrap().map(|stopped| Code::from_wire(stopped.into()));
    assert!(stopped.is_none_or(|stopped| stopped == code), "stream {id}: {stopped:?}");
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends_alone_and_its_connection_goes_on() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let home = node.attach().await;
        let mut consumer = bind(&home, "sink").await;
        let stranger = Stranger::member(&cluster, "node-x");
        let mut trunk = stranger.attach(node.udp).await;

        let beginnings = [
            (prefix(0x20, CONTROL_BYTES_MAX + 1), Code::Protocol),
            (prefix(0x30, 1 << 30), Code::Protocol),
            (prefix(0x7f, 0), Code::Unsupported),
            ([prefix(0x20, 3), vec![0xff; 3]].concat(), Code::Protocol),
            (prefix(0x03, 0), Code::Protocol),
        ];
        for (beginning, code) in &beginnings {
            let mut stream = Channel::open(&trunk.connection).await;
            stream.write(beginning).await;
            assert_ended(&mut trunk, &mut stream, *code).await;
        }

        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-b", "sink", 1).into()).await;
        assert_ended(&mut trunk, &mut stream, Code::UnknownNode).await;

        let mut stream = Channel::open(&trunk.connection).await;
        // Of a life of the consumer that is not the one which is bound.
        let open = Open { epoch: 1, ..open_frame("node-a", "sink", 2) };
        stream.say(&Resume { open, consumer_incarnation: Incarnation::from_bits(99) }.into()).await;
        assert_ended(&mut trunk, &mut stream, Code::OutcomeUnknown).await;

        // Bytes before ACCEPT: of a stream that nobody accepts yet.
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-a", "nobody", 3).into()).await;
        stream.write(b"early").await;
        assert_ended(&mut trunk, &mut stream, Code::Protocol).await;

        // Bytes beyond the credit.
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-a", "sink", 4).into()).await;
        let Ok(Some(Frame::Accept(_))) = stream.hear().await else { panic!("no ACCEPT") };
        let receiver = consumer.accept().await.unwrap();
        // More than a consumer grants that reads nothing, and no more than QUIC lets through.
        let beyond = vec![0; UNREAD_BYTES_MAX];
        let mut written = 0;
        while let Ok(more) = stream.send.write(&beyond[written..]).await
            && more > 0
        {
            written += more;
        }
        assert_ended(&mut trunk, &mut stream, Code::CreditExceeded).await;
        drop(receiver);

        // A good one, on the same connection.
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-a", "sink", 5).into()).await;
        let Ok(Some(Frame::Accept(_))) = stream.hear().await else { panic!("no ACCEPT") };
        let mut mark = vec![2, b'h', b'i'];
        mark.extend_from_slice(&[0xff; 8]);
        mark.extend_from_slice(&3_u64.to_be_bytes());
        stream.write(&mark).await;
        stream.send.finish().unwrap();
        let mut receiver = consumer.accept().await.unwrap();
        assert_eq!(receiver.producer().node.as_str(), "node-x", "as its certificate says");
        assert_eq!(receiver.recv().await.unwrap(), Some(Bytes::from_static(b"hi")));
        assert_eq!(receiver.recv().await.unwrap(), None);
        let mut finished = false;
        while let Ok(Some(frame)) = stream.hear().await {
            finished |= matches!(frame, Frame::Credit(Credit { finished: true, .. }));
        }
        assert!(finished);
        drop((receiver, consumer, home));
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_open_does_not_come_ends_alone() {
    in_time(async {
        // An OPEN may take as long as an outage may.
        let limits = "[limits]\nhello_timeout_ms = 300\n[trunk]\nidle_timeout_ms = 1500\nkeep_alive_ms = 300\n";
        let cluster = Cluster::builder().config(|_, toml| toml.push_str(limits)).start().await;
        let node = cluster.node("node-a");
        let stranger = Stranger::member(&cluster, "node-x");
        let mut trunk = stranger.attach(node.udp).await;
        let mut optional_only = prefix(0x7f, 0);
        optional_only[1] = 0x80;
        let mut streams = Vec::new();
        for beginning in [optional_only, prefix(0x20, 100)] {
            let mut stream = Channel::open(&trunk.connection).await;
            stream.write(&beginning).await;
            streams.push(stream);
        }
        for stream in &mut streams {
            assert_ended(&mut trunk, stream, Code::Protocol).await;
        }
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-b", "x", 1).into()).await;
        assert_eq!(trunk.hear_abort(stream.id()).await.code, Code::UnknownNode);
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn a_consumers_side_that_breaks_the_rules_ends_the_stream_alone() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let home = node.attach().await;
        let stranger = Stranger::member(&cluster, "node-x");
        let trunk = stranger.attach(node.udp).await;
        let credit = Credit { received: 1 << 40, consumed: 0, limit: 1 << 41, ..Credit::default() };
        let accept = Accept { stream: 0, incarnation: Incarnation::from_bytes(&[3; 16]).unwrap(), limit: 100 };
        let encoded = |frames: &[Frame]| {
            let mut bytes = BytesMut::new();
            frames.iter().for_each(|frame| frame.encode(&mut bytes));
            bytes.to_vec()
        };
        let finished = Credit { finished: true, limit: 100, ..Credit::default() };
        let faults = [
            (encoded(&[credit.into()]), Code::Protocol),
            (encoded(&[accept.into(), credit.into()]), Code::Protocol),
            (encoded(&[accept.into(), finished.into()]), Code::Protocol),
            (encoded(&[hello().into()]), Code::Protocol),
            (prefix(0x22, CONTROL_BYTES_MAX + 1), Code::Protocol),
            (prefix(0x7f, 0), Code::Unsupported),
        ];
        for (fault, code) in faults {
            let job = home.job("raw", RUN).unwrap();
            let producer = job.producer("producer").unwrap();
            let opening = tokio::spawn(async move {
                let mut sender = producer.open("raw/consumer@node-x").await?;
                sender.send(Bytes::from_static(b"hi")).await?;
                sender.finish().await
            });
            let (mut send, mut recv) = trunk.connection.accept_bi().await.unwrap();
            assert!(recv.read_chunk(1 << 16, true).await.unwrap().is_some(), "its OPEN");
            send.write_all(&fault).await.unwrap();
            let error = opening.await.unwrap().unwrap_err();
            assert_eq!(error.code(), Some(code), "{fault:02x?}: {error}");
        }
        drop(home);
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn garbage_on_the_udp_port_changes_nothing() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        serves(&cluster).await;
        let before = resident_bytes(node.pid);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut random = Random::new(seed(), 1);
        let initial = first_packet(&Stranger::member(&cluster, "node-x")).await;
        for _ in 0..2_000 {
            let length = random.below(1_400);
            socket.send_to(&random.bytes(length), node.udp).unwrap();
            // Truncated, and with a byte changed.
            socket.send_to(&initial[..random.below(initial.len())], node.udp).unwrap();
            let mut changed = initial.clone();
            changed[random.below(60)] ^= 1 << random.below(8);
            socket.send_to(&changed, node.udp).unwrap();
        }
        serves(&cluster).await;
        let grown = resident_bytes(node.pid).saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        assert!(node.log().lines().count() < 20, "{}", node.log());
    })
    .await;
}

/// The first packet of a dial, which goes nowhere.
async fn first_packet(stranger: &Stranger) -> Vec<u8> {
    let sink = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let _dial = stranger.begin_dial(sink.local_addr().unwrap());
    let mut buffer = vec![0; 2_000];
    let (length, _) = sink.recv_from(&mut buffer).await.unwrap();
    buffer.truncate(length);
    buffer
}

#[tokio::test]
async fn two_hundred_half_open_handshakes_from_one_host_do_not_keep_a_good_peer_out() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let node = cluster.node("node-a");
        let before = resident_bytes(node.pid);
        let stranger = Stranger::member(&cluster, "node-x");
        let mut storm = Vec::new();
        for _ in 0..200 {
            // Each from a port of its own, which never answers.
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(&first_packet(&stranger).await, node.udp).unwrap();
            storm.push(socket);
        }
        serves(&cluster).await;
        let grown = resident_bytes(node.pid).saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        let answered = |socket: &UdpSocket| {
            socket.set_nonblocking(true).unwrap();
            socket.recv(&mut [0; 2_000]).is_ok()
        };
        assert!(storm.iter().filter(|socket| answered(socket)).count() > 150, "the storm has reached the node");
    })
    .await;
}
