//! `scale`: what a node costs that has thousands of peers, and how fast it gathers from all of them.
//!
//! The node under test is a daemon as shipped, alone in its process. Its peers share a process: each is an embedded node with a
//! certificate of its own. What they open ends in one consumer's process, which
//! is attached to the daemon.

use std::{fmt, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::sleep;
use trunkline_tests::{cluster::Daemon, sockets};

use crate::{
    cli::Common,
    error::BenchError,
    observe::{Memory, processor_time},
    processes::{Place, Site, Worker},
    report::{Progress, Report, Table, mib, rounded},
    roles::{GatherPeers, GatheredAll, Peers, Phase, Step, Task},
};

/// How long memory is left to settle before it is read.
const SETTLE: Duration = Duration::from_secs(1);
/// For how long the idle node is watched.
const IDLE: Duration = Duration::from_secs(10);
/// The same with `--quick`.
const IDLE_QUICK: Duration = Duration::from_secs(2);
const KIB: f64 = 1_024.0;

/// What to measure.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Arguments {
    /// Peers of the daemon, each with a certificate of its own [default: 2000, with --quick 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    peers: Option<u32>,
    /// Streams from each peer into the daemon's consumer [default: 32, with --quick 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    streams_per_peer: Option<u32>,
    /// Messages on each stream of the gather
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    messages: u32,
    /// The length of a message
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 10, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    message_bytes: u32,
    /// Peers that dial at the same time. They share the daemon's machine: more than it serves within an idle timeout
    /// (9 s) lose their trunks for want of a processor, which no cluster of thousands of machines would
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    dials_at_once: u32,
    /// Threads that the peers share
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct ScaleReport {
    peers: usize,
    streams: usize,
    message_bytes: usize,
    /// From the order to dial until every peer's first stream was consumed.
    mesh_s: f64,
    handshakes_per_s: f64,
    rss_base_mib: f64,
    rss_per_trunk_kib: f64,
    rss_per_stream_kib: f64,
    /// Of one core, with all trunks up and all streams open.
    idle_cpu_percent: f64,
    udp_sockets: usize,
    tcp_sockets: usize,
    fds: usize,
    /// Of the gather.
    mb_per_s: f64,
    rss_peak_mib: f64,
}

impl Report for ScaleReport {}

impl fmt::Display for ScaleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["one daemon", "figure", "unit"]);
        let rows = [
            ("peers", self.peers as f64, ""),
            ("streams", self.streams as f64, ""),
            ("all trunks up", self.mesh_s, "s"),
            ("handshakes", self.handshakes_per_s, "1/s"),
            ("memory before", self.rss_base_mib, "MiB"),
            ("memory of an idle trunk", self.rss_per_trunk_kib, "KiB"),
            ("memory of an idle stream", self.rss_per_stream_kib, "KiB"),
            ("processor when idle", self.idle_cpu_percent, "% of a core"),
            ("UDP sockets", self.udp_sockets as f64, ""),
            ("TCP sockets", self.tcp_sockets as f64, ""),
            ("descriptors", self.fds as f64, ""),
            ("goodput of the gather", self.mb_per_s, "MB/s"),
            ("memory at most", self.rss_peak_mib, "MiB"),
        ];
        for (what, figure, unit) in rows {
            table.row([what.to_owned(), figure.to_string(), unit.to_owned()]);
        }
        table.fmt(f)
    }
}

/// Measures.
pub(crate) async fn run(arguments: &Arguments, common: Common, progress: &Progress) -> Result<ScaleReport, BenchError> {
    let count = |given: Option<u32>, quick: u32, full: u32| {
        let count = given.unwrap_or(if common.quick { quick } else { full });
        usize::try_from(count).unwrap_or(usize::MAX)
    };
    let (peers, streams_per_peer) = (count(arguments.peers, 50, 2_000), count(arguments.streams_per_peer, 4, 32));
    let streams = peers * streams_per_peer;
    let message_bytes = count(Some(arguments.message_bytes), 0, 0);

    progress.measure("starting a daemon");
    let site = Site::with_one_daemon().await?;
    let [daemon] = site.daemons() else {
        return Err(BenchError::Inexact("there is no daemon to measure".to_owned()));
    };
    let place = Place::Daemon { socket: daemon.local.clone() };
    let gather = GatherPeers { place, peers, streams_per_peer };
    let mut consumer = Worker::start("consumer", &Task::GatherPeers(gather)).await?;
    consumer.says::<()>().await?;
    progress.measure(format!("issuing {peers} certificates"));
    let plan = Peers {
        ca: site.ca_folder(),
        daemon: daemon.id.to_string(),
        address: daemon.udp,
        peers,
        streams_per_peer,
        messages: arguments.messages.into(),
        message_bytes,
        dials_at_once: count(Some(arguments.dials_at_once), 0, 0),
        threads: count(Some(arguments.threads), 0, 0),
    };
    let mut all_peers = Worker::start("peers", &Task::Peers(plan)).await?;
    all_peers.says::<()>().await?;
    let base = settled(daemon).await;

    progress.measure(format!("{peers} peers dial"));
    let mesh = step(&mut all_peers, Step::Mesh).await?;
    consumer.says::<()>().await?;
    let trunks = daemon.status().await.trunks.len();
    if trunks != peers {
        return Err(BenchError::Inexact(format!("{} has {trunks} trunks, with {peers} peers", daemon.id)));
    }
    let with_trunks = settled(daemon).await;

    progress.measure(format!("{streams} streams are opened"));
    step(&mut all_peers, Step::Open).await?;
    let with_streams = settled(daemon).await;

    let idle = if common.quick { IDLE_QUICK } else { IDLE };
    progress.measure(format!("nothing, for {} s", idle.as_secs()));
    let before = processor_time(daemon.pid)?;
    sleep(idle).await;
    let idle_used = processor_time(daemon.pid)?.saturating_sub(before);
    let descriptors = sockets::descriptors(daemon.pid);

    progress.measure(format!("gathering from {streams} streams"));
    let (sent, gathered) = tokio::join!(step(&mut all_peers, Step::Gather), consumer.says());
    let (sent, GatheredAll { received, seconds }) = match (sent, gathered) {
        (Ok(Phase { sent, .. }), Ok(gathered)) => (sent, gathered),
        // One end fails because the other has: both say what they know.
        (Err(peers), Err(consumer)) => return Err(BenchError::Inexact(format!("{consumer}; {peers}"))),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
    };
    if sent != received {
        return Err(BenchError::Inexact(format!("{sent:?} was sent, and {received:?} was received")));
    }
    let peak = Memory::of(daemon.pid).peak;

    let each_kib = |more: Memory, less: Memory, count: usize| {
        rounded((more.resident as f64 - less.resident as f64) / KIB / count as f64, 2)
    };
    Ok(ScaleReport {
        peers,
        streams,
        message_bytes,
        mesh_s: rounded(mesh.seconds, 3),
        handshakes_per_s: rounded(peers as f64 / mesh.seconds, 0),
        rss_base_mib: mib(base.resident),
        rss_per_trunk_kib: each_kib(with_trunks, base, peers),
        rss_per_stream_kib: each_kib(with_streams, with_trunks, streams),
        idle_cpu_percent: rounded(100.0 * idle_used.as_secs_f64() / idle.as_secs_f64(), 1),
        udp_sockets: descriptors.udp,
        tcp_sockets: descriptors.tcp,
        fds: descriptors.all,
        mb_per_s: rounded(received.bytes as f64 / 1e6 / seconds, 1),
        rss_peak_mib: mib(peak),
    })
}

async fn step(peers: &mut Worker, step: Step) -> Result<Phase, BenchError> {
    peers.tell(&step).await?;
    peers.says().await
}

async fn settled(daemon: &Daemon) -> Memory {
    sleep(SETTLE).await;
    Memory::of(daemon.pid)
}
