//! Attaching: what a node answers, what it might, and what is said when nobody does.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use trunkline::{Attachment, Code, ErrorKind};
use trunkline_proto::{
    frame::{Decoder, Frame},
    message::{LinkHello, Refused},
    version::Offer,
};

use crate::fake_node::{FakeNode, hello};

#[tokio::test]
async fn a_missing_socket_is_named_and_may_be_tried_again() {
    let error = Attachment::connect("/nonexistent/x.sock").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.is_retryable());
    assert_eq!(
        error.to_string(),
        "cannot connect to the node at /nonexistent/x.sock: No such file or directory; is trunkline-node running, and \
         is this its [local] socket?"
    );
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("left-over.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = Attachment::connect(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn the_hello_says_who_speaks_and_the_answer_who_answers() {
    let node = FakeNode::listen();
    let greet = async {
        let mut link = node.accept().await;
        let Frame::LinkHello(said) = link.next().await else { panic!("a HELLO is expected") };
        link.push(hello()).await;
        (said, link)
    };
    let (attachment, (said, _link)) =
        tokio::join!(Attachment::builder().software("wordcount-map").connect(&node.path), greet);
    assert_eq!((said.software.as_str(), said.pid), ("wordcount-map", std::process::id()));
    let attachment = attachment.unwrap();
    assert_eq!((attachment.node().as_str(), attachment.cluster()), ("node-a", "test"));
}

#[tokio::test]
async fn the_node_is_told_at_most_128_bytes_of_what_the_process_calls_itself_and_no_torn_character() {
    let node = FakeNode::listen();
    let name = format!("x{}", "é".repeat(100));
    let greet = async {
        let mut link = node.accept().await;
        let (mut raw, mut decoder) = (Vec::new(), Decoder::default());
        let said = loop {
            let before = raw.len();
            link.socket.read_buf(&mut raw).await.unwrap();
            decoder.buffer().extend_from_slice(&raw[before..]);
            if let Some(frame) = decoder.next().unwrap() {
                break frame;
            }
        };
        link.push(hello()).await;
        (said, raw, link)
    };
    let (attachment, (said, raw, _link)) =
        tokio::join!(Attachment::builder().software(&name).connect(&node.path), greet);
    attachment.unwrap();
    let Frame::LinkHello(said) = said else { panic!("a HELLO is expected") };
    let kept = format!("x{}", "é".repeat(63));
    assert_eq!(said.software, kept, "127 bytes: of the next character one would be left");
    // Decoding cuts too: what lies on the wire, behind its length, is no longer either.
    let on_the_wire = [&[127], kept.as_bytes()].concat();
    assert!(raw.windows(on_the_wire.len()).any(|bytes| bytes == on_the_wire), "{raw:?}");
}

#[tokio::test]
async fn garbage_instead_of_a_hello_is_no_node() {
    let node = FakeNode::listen();
    let answer = async {
        let mut link = node.accept().await;
        link.next().await;
        link.socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        link
    };
    let (attachment, _link) = tokio::join!(Attachment::connect(&node.path), answer);
    let error = attachment.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.is_retryable()), (ErrorKind::Connect, Some(Code::Protocol), false));
    assert!(error.to_string().contains("does not answer as a node"), "{error}");
}

#[tokio::test]
async fn an_end_instead_of_a_hello_is_no_node() {
    let node = FakeNode::listen();
    let answer = async { drop(node.accept().await) };
    let (attachment, ()) = tokio::join!(Attachment::connect(&node.path), answer);
    let error = attachment.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().contains("closed the connection without a word"), "{error}");
}

#[tokio::test]
async fn a_node_that_refuses_is_quoted() {
    let node = FakeNode::listen();
    let answer = async {
        let mut link = node.accept().await;
        link.push(Refused { bind: 0, code: Code::Forbidden, text: "uid 7 is not in allowed_users".into() }).await;
    };
    let (attachment, ()) = tokio::join!(Attachment::connect(&node.path), answer);
    let error = attachment.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.is_retryable()), (ErrorKind::Refused, Some(Code::Forbidden), false));
    assert!(error.to_string().contains("forbidden: uid 7 is not in allowed_users"), "{error}");
}

#[tokio::test]
async fn a_node_of_another_age_is_refused_with_both_ranges() {
    let node = FakeNode::listen();
    let answer = async {
        let mut link = node.accept().await;
        let offer = Offer { version_min: 90, version_max: 91, features: Vec::new() };
        link.push(LinkHello { offer, ..hello() }).await;
        link
    };
    let (attachment, _link) = tokio::join!(Attachment::connect(&node.path), answer);
    let error = attachment.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, Some(Code::Version)));
    assert!(error.to_string().contains("the other 90 to 91"), "{error}");
}

#[tokio::test]
async fn a_node_that_says_nothing_is_not_waited_for_for_ever() {
    let node = FakeNode::listen();
    let builder = Attachment::builder().connect_timeout(Duration::from_millis(20));
    let error = builder.connect(&node.path).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, true));
}

#[tokio::test]
async fn a_connect_that_is_given_up_closes_its_socket() {
    let node = FakeNode::listen();
    let path = node.path.clone();
    let connecting = tokio::spawn(async move { Attachment::connect(&path).await });
    let mut link = node.accept().await;
    link.next().await;
    connecting.abort();
    assert!(link.next_or_end().await.is_none());
}

#[tokio::test]
async fn settings_out_of_range_are_refused_before_anything_is_done() {
    let builders = [
        Attachment::builder().receive_budget_bytes(1),
        Attachment::builder().send_budget_bytes(0),
        Attachment::builder().message_bytes_max(0),
        Attachment::builder().message_bytes_max(1 << 30),
        Attachment::builder().stall_warn(Duration::ZERO),
    ];
    for builder in builders {
        let error = builder.connect(Path::new("/nonexistent")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[tokio::test]
async fn the_longest_message_may_be_set_to_one_byte_less_than_1_gib() {
    let builder = Attachment::builder().message_bytes_max((1 << 30) - 1);
    // It is taken: what fails is the connecting.
    assert_eq!(builder.connect("/nonexistent/x.sock").await.unwrap_err().kind(), ErrorKind::Connect);
}

#[tokio::test]
async fn a_node_that_starts_later_is_reached() {
    let node = FakeNode::listen();
    let path = node.path.clone();
    let connecting = Attachment::builder().retry_first_connect(Duration::MAX).connect(&path);
    let answer = async {
        // Two that say something which may get better, then one that greets.
        let mut link = node.accept().await;
        link.push(Refused { bind: 0, code: Code::Busy, text: "1024 processes are attached".into() }).await;
        drop(link);
        let mut link = node.accept().await;
        link.push(Refused { bind: 0, code: Code::Draining, text: "node-a is shutting down".into() }).await;
        drop(link);
        node.greet().await
    };
    let (attachment, _link) = tokio::join!(connecting, answer);
    assert_eq!(attachment.unwrap().node().as_str(), "node-a");
}

#[tokio::test]
async fn a_node_that_never_comes_is_given_up_with_how_long_it_was_tried() {
    let builder = Attachment::builder().retry_first_connect(Duration::from_millis(50));
    let error = builder.connect("/nonexistent/x.sock").await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Connect, true));
    let text = error.to_string();
    assert!(text.contains("/nonexistent/x.sock: No such file") && text.contains("; tried "), "{text}");
}

#[tokio::test]
async fn what_will_not_get_better_is_not_tried_again() {
    let node = FakeNode::listen();
    let answer = async {
        let mut link = node.accept().await;
        link.push(Refused { bind: 0, code: Code::Forbidden, text: "uid 7 is not in allowed_users".into() }).await;
    };
    let connecting = Attachment::builder().retry_first_connect(Duration::MAX).connect(&node.path);
    let (attachment, ()) = tokio::join!(connecting, answer);
    assert_eq!(attachment.unwrap_err().code(), Some(Code::Forbidden));
}

#[tokio::test]
async fn a_retry_that_is_given_up_closes_its_socket() {
    let node = FakeNode::listen();
    let path = node.path.clone();
    let builder = Attachment::builder().retry_first_connect(Duration::MAX);
    let connecting = tokio::spawn(async move { builder.connect(&path).await });
    let mut link = node.accept().await;
    link.push(Refused { bind: 0, code: Code::Busy, text: "1024 processes are attached".into() }).await;
    let mut link = node.accept().await;
    link.next().await;
    connecting.abort();
    assert!(link.next_or_end().await.is_none());
}

/// Set in the process that only says what it finds.
const SAYS: &str = "SAYS_WHERE_THE_LOCAL_NODE_IS";

/// The test below again, in a process of its own with another environment.
fn with_socket_variable(value: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "connect::the_local_node_is_where_the_variable_says_or_at_the_default_path_and_the_error_says_which";
    command.args(["--exact", "--nocapture", name]).env(SAYS, "");
    match value {
        Some(value) => command.env("TRUNKLINE_SOCKET", value),
        None => command.env_remove("TRUNKLINE_SOCKET"),
    };
    command.output().unwrap()
}

#[tokio::test]
async fn the_local_node_is_where_the_variable_says_or_at_the_default_path_and_the_error_says_which() {
    if std::env::var_os(SAYS).is_some() {
        match Attachment::connect_local().await {
            Ok(attachment) => println!("reached {}", attachment.node()),
            Err(error) => println!("{error}"),
        }
        return;
    }
    let said = |value| String::from_utf8(with_socket_variable(value).stdout).unwrap();
    let named = said(Some("/nonexistent/x.sock"));
    assert!(named.contains("/nonexistent/x.sock: No such file"), "{named}");
    assert!(named.contains("(the path is from TRUNKLINE_SOCKET)"), "{named}");
    for unset in [None, Some("")] {
        let default = said(unset);
        // A node may run here: then it is the one that was meant.
        let is_default = default.contains("reached ")
            || default.contains("/run/trunkline/local.sock")
                && default.contains("(the default path, for TRUNKLINE_SOCKET is not set)");
        assert!(is_default, "{default}");
    }
}
