//! Streams that are full: they stop nobody else, they can be given up at once, and what they held is free again. And what
//! two busy jobs get of a slow line.

use std::{ffi::OsString, path::Path, time::Duration};

use tokio::task::JoinSet;
use trunkline::{Attachment, Bytes, Consumer, Expected, Gathered};
use trunkline_tests::{
    cluster::{Cluster, Daemon},
    crowd::ASLEEP,
    eventually,
    exchange::RUN,
    forwarder::Network,
    in_time_of,
    process::{self, Process},
};

const JOB: &str = "stalled";
/// These tests move hundreds of megabytes, on a machine that may do other things too.
const LIMIT: Duration = Duration::from_secs(240);

/// Arguments of both processes of a crowd: how many streams of each kind, and what they carry.
fn arguments<'n>(socket: &Path, numbers: &[(&'n str, usize)]) -> Vec<(&'n str, OsString)> {
    let common = [("socket", socket.into()), ("job", JOB.into()), ("run", RUN.into()), ("node", "node-b".into())];
    common.into_iter().chain(numbers.iter().map(|(name, number)| (*name, number.to_string().into()))).collect()
}

/// A process at node-a with streams to one at node-b that sleeps.
struct Crowd {
    senders: Process,
    receivers: Process,
}

impl Crowd {
    async fn open(cluster: &Cluster, numbers: &[(&str, usize)]) -> Self {
        let mut receivers = process::spawn("crowd-receive", arguments(&cluster.node("node-b").local, numbers));
        receivers.says("bound").await;
        let mut crowd = Self { senders: Self::senders(cluster, numbers), receivers };
        crowd.opened().await;
        crowd
    }

    fn senders(cluster: &Cluster, numbers: &[(&str, usize)]) -> Process {
        process::spawn("crowd-send", arguments(&cluster.node("node-a").local, numbers))
    }

    async fn opened(&mut self) {
        self.senders.says("opened").await;
        self.receivers.says("accepted").await;
    }

    /// How many sends to the one that sleeps wait, and what the sending process holds.
    async fn waiting(&mut self) -> (usize, u64) {
        self.senders.tell("waiting").await;
        let said = self.senders.says("waiting").await;
        let (waiting, held) = said.split_once(' ').expect("two numbers");
        (waiting.parse().expect("a number"), held.parse().expect("a number"))
    }

    /// Waits until so many sends wait at the same moment.
    async fn blocked(&mut self, streams: usize) {
        eventually("each send is blocked", async || (self.waiting().await.0 == streams).then_some(())).await;
    }

    /// Waits until the sending process holds nothing any more.
    async fn holds_nothing(&mut self) {
        eventually("the sender's budget is free", async || (self.waiting().await == (0, 0)).then_some(())).await;
    }
}

#[tokio::test]
async fn streams_that_nobody_reads_stop_none_of_a_thousand_beside_them_and_are_exact_when_they_are_read() {
    const STALLED: usize = 50;
    let numbers = [
        ("awake", 1_000 - STALLED),
        ("awake_messages", 8),
        ("asleep", STALLED),
        // More than the widest window of a stream.
        ("asleep_messages", 80),
        ("bytes", 20_000),
    ];
    in_time_of(LIMIT, async {
        let cluster = Cluster::builder().start().await;
        let mut crowd = Crowd::open(&cluster, &numbers).await;
        crowd.senders.tell("fill").await;
        crowd.blocked(STALLED).await;

        crowd.senders.tell("go").await;
        let sent = crowd.senders.says("awake").await;
        assert!(sent.starts_with("950 finished "), "{sent}");
        assert_eq!(sent, crowd.receivers.says("awake").await);
        crowd.blocked(STALLED).await;
        for node in cluster.nodes() {
            let streams = node.status().await.streams;
            assert_eq!(streams.len(), STALLED, "{}", node.id);
            assert!(streams.iter().all(|stream| stream.consumer == ASLEEP && stream.accepted), "{}", node.id);
        }

        crowd.receivers.tell("read").await;
        let sent = crowd.senders.says("asleep").await;
        assert!(sent.starts_with("50 finished "), "{sent}");
        assert_eq!(sent, crowd.receivers.says("asleep").await);
        crowd.holds_nothing().await;
        cluster.carries_nothing().await;
    })
    .await;
}

/// Streams that hold a message each, with a budget that has windows for a few of these: nearly all of them lie in the
/// receiving process's pool for long messages, and fill most of it. They can be full once more only if all of it was
/// given back.
const FULL: usize = 200;
const FULL_BYTES: usize = 256 * 1024;
const FULL_NUMBERS: [(&str, usize); 4] =
    [(ASLEEP, FULL), ("asleep_messages", 20), ("bytes", FULL_BYTES), ("receive_budget_bytes", 4 << 20)];

/// Waits until each stream holds its message at the consumer's end, and its next send is blocked.
async fn full(crowd: &mut Crowd, node_b: &Daemon) {
    crowd.senders.tell("fill").await;
    crowd.blocked(FULL).await;
    let holds = async || {
        let status = node_b.status().await;
        let full = status.streams.iter().filter(|stream| stream.offset >= FULL_BYTES as u64).count();
        (full == FULL).then_some(())
    };
    eventually("each stream has brought its first message", holds).await;
}

#[tokio::test]
async fn cancelling_full_streams_overtakes_their_data_and_frees_what_they_held_in_all_four_processes() {
    in_time_of(LIMIT, async {
        let cluster = Cluster::builder().start().await;
        let mut crowd = Crowd::open(&cluster, &FULL_NUMBERS).await;
        for _ in 0..3 {
            full(&mut crowd, cluster.node("node-b")).await;
            crowd.receivers.tell("cancel").await;
            assert_eq!(crowd.senders.says(ASLEEP).await, format!("{FULL} cancelled"));
            crowd.holds_nothing().await;
            cluster.carries_nothing().await;
            crowd.senders = Crowd::senders(&cluster, &FULL_NUMBERS);
            crowd.opened().await;
        }
        // Whoever reads now gets all that these streams were sent, from the first byte.
        full(&mut crowd, cluster.node("node-b")).await;
        crowd.receivers.tell("read").await;
        let sent = crowd.senders.says(ASLEEP).await;
        assert!(sent.starts_with("200 finished "), "{sent}");
        assert_eq!(sent, crowd.receivers.says(ASLEEP).await);
        crowd.holds_nothing().await;
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn aborting_full_streams_overtakes_their_data_and_frees_what_they_held_in_all_four_processes() {
    in_time_of(LIMIT, async {
        let cluster = Cluster::builder().start().await;
        let mut crowd = Crowd::open(&cluster, &FULL_NUMBERS).await;
        for round in 1..=3 {
            full(&mut crowd, cluster.node("node-b")).await;
            crowd.senders.tell("abort").await;
            assert_eq!(crowd.senders.says(ASLEEP).await, format!("{FULL} given up"));
            crowd.holds_nothing().await;
            cluster.carries_nothing().await;
            // The consumer's process knows it, though its application reads nothing.
            let lost = async || {
                crowd.receivers.tell("lost").await;
                (crowd.receivers.says("lost").await == (round * FULL).to_string()).then_some(())
            };
            eventually("the consumer hears of all", lost).await;
            crowd.receivers.tell("read").await;
            assert_eq!(crowd.receivers.says(ASLEEP).await, format!("{FULL} cancelled after 0 messages"));
            crowd.senders = Crowd::senders(&cluster, &FULL_NUMBERS);
            crowd.opened().await;
        }
    })
    .await;
}

/// Streams of each of two jobs that share a trunk.
const BUSY: usize = 8;

async fn bind(attachment: &Attachment, job: &str) -> Consumer {
    attachment.job(job, RUN).expect("a job").consumer("consumer").expect("a name").bind().await.expect("bound")
}

/// Opens the streams of a job, which send until they are dropped.
async fn busy(attachment: &Attachment, job: &str, weight: u32, sending: &mut JoinSet<()>) {
    let producers = attachment.job(job, RUN).expect("a job");
    for number in 0..BUSY {
        let producer = producers.producer(format!("producer-{number}")).expect("a name").weight(weight);
        let opened = producer.expect("a weight").open(format!("{job}/consumer@node-b")).await;
        let (mut sender, message) = (opened.expect("accepted"), Bytes::from(vec![7; 16 * 1024]));
        sending.spawn(async move { while sender.send(message.clone()).await.is_ok() {} });
    }
}

#[tokio::test]
async fn two_busy_jobs_of_weights_three_and_one_get_three_quarters_and_one_of_a_slow_line() {
    const BYTES_PER_S: u64 = 24_000_000;
    const WARM_UP: u64 = 16_000_000;
    const MEASURED: u64 = 64_000_000;
    in_time_of(LIMIT, async {
        let network = Network::default();
        let builder = Cluster::builder().peer_address(|from, to, real| network.address(from, to, real));
        let cluster = builder.start().await;
        network.direction("node-a", "node-b").limit_rate(BYTES_PER_S);
        let (node_a, b) = (cluster.node("node-a"), cluster.node("node-b").attach().await);
        let mut gathers = ["light", "heavy"].map(|job| (job, None));
        for (job, gather) in &mut gathers {
            let names = (0..BUSY).map(|number| format!("producer-{number}"));
            *gather = Some(bind(&b, job).await.gather(Expected::names(names).expect("names")));
        }
        let [(_, light), (_, heavy)] = gathers;
        let (mut light, mut heavy) = (light.expect("bound"), heavy.expect("bound"));
        // Each job has a process of its own, so that nothing but the trunk is shared.
        let attached = [node_a.attach().await, node_a.attach().await];
        let mut sending = JoinSet::new();
        busy(&attached[0], "light", 1, &mut sending).await;
        busy(&attached[1], "heavy", 3, &mut sending).await;

        let (mut bytes, mut before) = ([0_u64; 2], None);
        let shares = loop {
            let (job, gathered) = tokio::select! {
                gathered = light.next() => (0, gathered),
                gathered = heavy.next() => (1, gathered),
            };
            match gathered.expect("they go on").expect("the attachment lives") {
                Gathered::Message { message, .. } => bytes[job] += message.len() as u64,
                Gathered::Lost(lost) => panic!("{lost}"),
            }
            match before {
                None if bytes.iter().sum::<u64>() >= WARM_UP => before = Some(bytes),
                Some(then) if bytes.iter().sum::<u64>() >= WARM_UP + MEASURED => {
                    break [bytes[0] - then[0], bytes[1] - then[1]];
                }
                _ => {}
            }
        };
        let [light, heavy] = shares;
        // 3 : 1 within 5 %.
        assert!(heavy * 100 >= light * 285 && heavy * 100 <= light * 315, "{heavy} to {light}");
    })
    .await;
}
