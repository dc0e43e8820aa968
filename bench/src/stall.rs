//! `stall`: what a reading stream has of its speed beside thousands that nobody reads.
//!
//! Two clusters stand side by side and take turns: one has the reading streams alone, the other has them beside streams of
//! the same job, trunk and two processes that were filled until each one's `send` was seen to wait. At the end the
//! stalled ones are read, and everything must have arrived.

use std::{fmt, time::Duration};

use clap::{Args, value_parser};
use serde::Serialize;
use trunkline::node::NodeConfig;

use crate::{
    ceiling::{Part, ceiling_bytes},
    cli::Common,
    error::BenchError,
    measure::{Estimate, interleaved, median, percentile, ratio},
    observe::Memory,
    processes::{NODES, Site, Worker},
    report::{Progress, Report, Table, mib, rounded},
    roles::{Filled, Flooded, ReceiveOrder, SendOrder, StallConsume, StallProduce, Streams, Task, Total},
    settings::Budgets,
};

/// Between two small messages.
const PACE: Duration = Duration::from_millis(2);

/// What to measure.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Arguments {
    /// Streams in all, on one trunk between two processes [default: 10000, with --quick 500]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(2..=1_000_000))]
    streams: Option<u32>,
    /// Those of them that are read
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000_000))]
    reading: u32,
    /// The length of a message of bulk
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 10, value_parser = value_parser!(u32).range(65..=1 << 20))]
    message_bytes: u32,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Stall {
    streams: usize,
    reading: usize,
    /// Streams whose send waited before the first round and after the last one.
    blocked: usize,
    mb_per_s: f64,
    mb_per_s_alone: f64,
    /// Beside the stalled ones to alone.
    throughput_ratio: f64,
    throughput_interval: Estimate,
    p50_us: f64,
    p50_alone_us: f64,
    p99_us: f64,
    p99_alone_us: f64,
    p99_ratio: f64,
    p99_interval: Estimate,
    rss_mib: PerProcess,
    rss_peak_mib: PerProcess,
    ceiling_mib: PerProcess,
}

/// One figure for each of the four processes.
#[derive(Debug, Clone, Copy, Serialize)]
struct PerProcess {
    producer: f64,
    node_a: f64,
    node_b: f64,
    consumer: f64,
}

/// One round of one cluster.
#[derive(Debug, Clone, Copy)]
struct Figures {
    mb_per_s: f64,
    p50_us: f64,
    p99_us: f64,
}

/// How much is sent in a round.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// Messages of bulk on each reading stream.
    messages: u64,
    /// Bytes of it on all of them.
    bytes: u64,
    /// Small messages.
    paced: usize,
}

/// Measures.
pub(crate) async fn run(arguments: &Arguments, common: Common, progress: &Progress) -> Result<Stall, BenchError> {
    let all = arguments.streams.unwrap_or(if common.quick { 500 } else { 10_000 }) as usize;
    let reading = arguments.reading as usize;
    if reading >= all {
        return Err(BenchError::Option(format!("--reading {reading}: it must be less than the {all} --streams")));
    }
    let message_bytes = arguments.message_bytes as usize;
    let bulk_bytes: usize = if common.quick { 16 << 20 } else { 256 << 20 };
    let messages = bulk_bytes.div_ceil(reading * message_bytes);
    let round = Round {
        messages: messages as u64,
        bytes: (messages * reading * message_bytes) as u64,
        paced: if common.quick { 50 } else { 500 },
    };

    progress.measure("starting two clusters");
    let streams = Streams { reading, stalled: all - reading };
    let alone = Side::start(Streams { stalled: 0, ..streams }, message_bytes).await?;
    let beside = Side::start(streams, message_bytes).await?;
    let mut sides = [alone, beside];
    progress.measure(format!("filling {} streams", streams.stalled));
    let filled = sides[1].fill().await?;

    progress.measure(format!("{reading} reading beside {} stalled, against alone", streams.stalled));
    let rounds = interleaved(common, 2, progress, async |side| sides[side].measure(round).await).await?;
    let still = sides[1].look().await?;
    if still.blocked != filled.blocked || still.messages != filled.messages {
        return Err(BenchError::Inexact(format!("nobody read the stalled streams, and of {filled:?} came {still:?}")));
    }
    let (resident, peak) = (sides[1].memory(|memory| memory.resident), sides[1].memory(|memory| memory.peak));
    progress.measure("the stalled streams are read");
    let [alone_side, beside_side] = sides;
    alone_side.end().await?;
    beside_side.end().await?;

    let (alone, beside) = (&rounds[0], &rounds[1]);
    let of = |rounds: &[Figures], figure: fn(&Figures) -> f64| rounded(median(rounds.iter().map(figure)), 1);
    let throughput_interval = ratio(beside, alone, |round| round.mb_per_s);
    let p99_interval = ratio(beside, alone, |round| round.p99_us);
    Ok(Stall {
        streams: all,
        reading,
        blocked: still.blocked,
        mb_per_s: of(beside, |round| round.mb_per_s),
        mb_per_s_alone: of(alone, |round| round.mb_per_s),
        throughput_ratio: rounded(throughput_interval.median, 3),
        throughput_interval,
        p50_us: of(beside, |round| round.p50_us),
        p50_alone_us: of(alone, |round| round.p50_us),
        p99_us: of(beside, |round| round.p99_us),
        p99_alone_us: of(alone, |round| round.p99_us),
        p99_ratio: rounded(p99_interval.median, 3),
        p99_interval,
        rss_mib: resident,
        rss_peak_mib: peak,
        ceiling_mib: ceilings(all as u64)?,
    })
}

/// Of the four processes, with their default configuration.
fn ceilings(streams: u64) -> Result<PerProcess, BenchError> {
    let budgets = Budgets::default();
    let config = default_config()?;
    let ceiling = |part| mib(ceiling_bytes(part, streams));
    Ok(PerProcess {
        producer: ceiling(Part::Producer(&budgets)),
        node_a: ceiling(Part::ProducersNode(&config)),
        node_b: ceiling(Part::ConsumersNode(&config)),
        consumer: ceiling(Part::Consumer(&budgets)),
    })
}

/// What the daemons run with: the files they are started from say nothing of limits or trunks.
fn default_config() -> Result<NodeConfig, BenchError> {
    let listen = "[::]:0".parse().map_err(BenchError::peer("an address"))?;
    let files = trunkline::node::IdentityConfig {
        certificate: "node.pem".into(),
        key: "node.key".into(),
        trust: "trust.pem".into(),
    };
    Ok(NodeConfig::new(listen, files))
}

/// One of the two clusters: two daemons, one producer's process and one consumer's.
#[derive(Debug)]
struct Side {
    // Before the site: its daemons go last.
    producer: Worker,
    consumer: Worker,
    site: Site,
}

impl Side {
    async fn start(streams: Streams, message_bytes: usize) -> Result<Self, BenchError> {
        let site = Site::with_daemons("").await?;
        let [near, far] = site.places();
        let budgets = Budgets::default();
        let consume = StallConsume { place: far, streams, budgets };
        let mut consumer = Worker::start("consumer", &Task::StallConsume(consume)).await?;
        consumer.says::<()>().await?;
        let produce = StallProduce { place: near, to: NODES[1].to_owned(), streams, message_bytes, budgets };
        let mut producer = Worker::start("producer", &Task::StallProduce(produce)).await?;
        tokio::try_join!(producer.says::<()>(), consumer.says::<()>())?;
        Ok(Self { producer, consumer, site })
    }

    /// Fills the streams that nobody reads.
    async fn fill(&mut self) -> Result<Filled, BenchError> {
        self.producer.tell(&SendOrder::Fill).await?;
        self.producer.says().await
    }

    /// What waits now.
    async fn look(&mut self) -> Result<Filled, BenchError> {
        self.producer.tell(&SendOrder::Look).await?;
        self.producer.says().await
    }

    async fn measure(&mut self, round: Round) -> Result<Figures, BenchError> {
        let Round { messages, bytes, paced } = round;
        self.consumer.tell(&ReceiveOrder::Flood { bytes }).await?;
        self.consumer.says::<()>().await?;
        self.producer.tell(&SendOrder::Flood { messages }).await?;
        let ((), Flooded { seconds }) = tokio::try_join!(self.producer.says(), self.consumer.says())?;

        self.consumer.tell(&ReceiveOrder::Pace { messages: paced }).await?;
        self.consumer.says::<()>().await?;
        self.producer.tell(&SendOrder::Pace { messages: paced, interval: PACE }).await?;
        let ((), mut took_us) = tokio::try_join!(self.producer.says::<()>(), self.consumer.says::<Vec<f64>>())?;
        took_us.sort_unstable_by(f64::total_cmp);
        let (p50_us, p99_us) = (percentile(&took_us, 50), percentile(&took_us, 99));
        Ok(Figures { mb_per_s: bytes as f64 / 1e6 / seconds, p50_us, p99_us })
    }

    fn memory(&self, which: fn(Memory) -> u64) -> PerProcess {
        let of = |pid| mib(which(Memory::of(pid)));
        let [node_a, node_b] = [0, 1].map(|node| self.site.daemons().get(node).map_or(0.0, |daemon| of(daemon.pid)));
        PerProcess { producer: of(self.producer.pid()), node_a, node_b, consumer: of(self.consumer.pid()) }
    }

    /// Everything is read, and both ends must have seen the same.
    async fn end(mut self) -> Result<(), BenchError> {
        self.producer.tell(&SendOrder::End).await?;
        self.consumer.tell(&ReceiveOrder::End).await?;
        let (sent, received) = tokio::try_join!(self.producer.says::<Total>(), self.consumer.says::<Total>())?;
        if sent != received {
            return Err(BenchError::Inexact(format!("{sent:?} was sent, and {received:?} was received")));
        }
        Ok(())
    }
}

impl Report for Stall {}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reading, blocked, throughput_interval, p99_interval, .. } = self;
        let mut speed = Table::new(["", "alone", "beside the stalled", "ratio"]);
        let rows = [
            ("goodput, MB/s", self.mb_per_s_alone, self.mb_per_s, throughput_interval.to_string()),
            ("p50, µs", self.p50_alone_us, self.p50_us, String::new()),
            ("p99, µs", self.p99_alone_us, self.p99_us, p99_interval.to_string()),
        ];
        for (what, alone, beside, ratio) in rows {
            speed.row([what.to_owned(), format!("{alone:.1}"), format!("{beside:.1}"), ratio]);
        }
        let mut memory = Table::new(["MiB", "producer", "node-a", "node-b", "consumer"]);
        let rows = [("with all stalled", self.rss_mib), ("at most", self.rss_peak_mib), ("ceiling", self.ceiling_mib)];
        for (what, of) in rows {
            let figures = [of.producer, of.node_a, of.node_b, of.consumer].map(|figure| format!("{figure:.1}"));
            memory.row([what.to_owned()].into_iter().chain(figures));
        }
        write!(f, "{reading} reading, {blocked} stalled\n\n{speed}\n{memory}")
    }
}
