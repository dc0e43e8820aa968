//! `latency`: how long a small request and its reply take, beside a TCP socket with TLS and bare quinn.

use std::{fmt, time::Duration};

use clap::{Args, value_parser};
use serde::Serialize;

use crate::{
    bare::{BareAnswer, BareAsk, TlsAnswer, TlsAsk},
    cli::Common,
    error::BenchError,
    measure::{Estimate, interleaved, median, ratio},
    processes::{Site, Worker},
    report::{Progress, Report, Table, rounded},
    roles::{Answer, Ask, Consume, Load, Measured, Produce, RoundTrips, Task, Window},
};

/// What goes beside the requests on the same trunk.
const BULK: Load = Load { streams: 16, message_bytes: 64 << 10, hashed: false };
/// The bulk is not measured: its window is as long as any other, and what was seen in it is thrown away.
const BULK_WINDOW: Window = Window {
    warm_up: Duration::from_millis(100),
    least: Duration::from_millis(100),
    rounds: 1,
    most: Duration::from_secs(30),
};

/// Round trips beside the bulk, in each round. A p99 needs some hundreds.
const LOADED_ROUND_TRIPS_MAX: usize = 1_000;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Length of each request and reply
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = value_parser!(u32).range(1..=64 << 10))]
    size: u32,
}

/// What was found: microseconds, medians over the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    daemons_p50_us: f64,
    daemons_p99_us: f64,
    embedded_p50_us: f64,
    embedded_p99_us: f64,
    tcp_tls_p50_us: f64,
    tcp_tls_p99_us: f64,
    quinn_p50_us: f64,
    quinn_p99_us: f64,
    /// Through daemons, beside busy streams of other processes on the same trunk.
    loaded_p50_us: f64,
    loaded_p99_us: f64,
    /// Ratios of p50 to that of TCP + TLS.
    daemons_ratio: Estimate,
    embedded_ratio: Estimate,
    quinn_ratio: Estimate,
    size: u32,
    /// In each round, of each kind.
    round_trips: usize,
    loaded_round_trips: usize,
}

/// Measures.
pub(crate) async fn run(arguments: &Arguments, common: Common, progress: &Progress) -> Result<Latency, BenchError> {
    let size = arguments.size as usize;
    let round_trips = if common.quick { 300 } else { 10_000 };
    progress.measure(format!("round trips of {size} bytes"));
    let daemons = Site::with_daemons("").await?;
    let [embedded, tls, bare] =
        [Site::without_daemons().await?, Site::without_daemons().await?, Site::without_daemons().await?];
    let mut pairs = [
        Pair::of_sdk(&daemons, size).await?,
        Pair::of_sdk(&embedded, size).await?,
        Pair::of_tls(&tls, size).await?,
        Pair::of_quinn(&bare, size).await?,
    ];
    let idle =
        interleaved(common, pairs.len(), progress, async |index| pairs[index].measure(round_trips).await).await?;

    progress.measure("round trips beside bulk");
    let [near, far] = daemons.places();
    let consume = Consume { place: far, load: BULK, window: BULK_WINDOW, one_by_one: false };
    let mut consumer = Worker::start("bulk consumer", &Task::Consume(consume)).await?;
    let address = consumer.says().await?;
    let produce = Produce { place: near, address, load: BULK };
    let mut producer = Worker::start("bulk producer", &Task::Produce(produce)).await?;
    // All streams are busy by then.
    tokio::try_join!(producer.says::<()>(), consumer.says::<Measured>())?;
    // Each takes many times as long.
    let loaded_round_trips = round_trips.min(LOADED_ROUND_TRIPS_MAX);
    let loaded = interleaved(common, 1, progress, async |_| pairs[0].measure(loaded_round_trips).await).await?;

    let p50 = |rounds: &[RoundTrips]| rounded(median(rounds.iter().map(|round| round.p50_us)), 1);
    let p99 = |rounds: &[RoundTrips]| rounded(median(rounds.iter().map(|round| round.p99_us)), 1);
    let against_tls = |rounds: &[RoundTrips]| ratio(rounds, &idle[2], |round| round.p50_us);
    Ok(Latency {
        daemons_p50_us: p50(&idle[0]),
        daemons_p99_us: p99(&idle[0]),
        embedded_p50_us: p50(&idle[1]),
        embedded_p99_us: p99(&idle[1]),
        tcp_tls_p50_us: p50(&idle[2]),
        tcp_tls_p99_us: p99(&idle[2]),
        quinn_p50_us: p50(&idle[3]),
        quinn_p99_us: p99(&idle[3]),
        loaded_p50_us: p50(&loaded[0]),
        loaded_p99_us: p99(&loaded[0]),
        daemons_ratio: against_tls(&idle[0]),
        embedded_ratio: against_tls(&idle[1]),
        quinn_ratio: against_tls(&idle[3]),
        size: arguments.size,
        round_trips,
        loaded_round_trips,
    })
}

/// Two processes that ask and answer. Those of all kinds live side by side, and take turns.
struct Pair {
    asker: Worker,
    _answerer: Worker,
}

impl Pair {
    async fn of_sdk(site: &Site, size: usize) -> Result<Self, BenchError> {
        let [near, far] = site.places();
        let mut asker = Worker::start("asker", &Task::Ask(Ask { place: near, size })).await?;
        let reply_to = asker.says().await?;
        let mut answerer = Worker::start("answerer", &Task::Answer(Answer { place: far, reply_to })).await?;
        let address: String = answerer.says().await?;
        asker.tell(&address).await?;
        asker.says::<()>().await?;
        Ok(Self { asker, _answerer: answerer })
    }

    async fn of_tls(site: &Site, size: usize) -> Result<Self, BenchError> {
        let [near, far] = site.node_files();
        Self::connected(Task::TlsAsk(TlsAsk { files: near, size }), Task::TlsAnswer(TlsAnswer { files: far, size }))
            .await
    }

    async fn of_quinn(site: &Site, size: usize) -> Result<Self, BenchError> {
        let [near, far] = site.node_files();
        let answer = Task::BareAnswer(BareAnswer { files: far, size });
        Self::connected(Task::BareAsk(BareAsk { files: near, size }), answer).await
    }

    /// The one that answers listens first.
    async fn connected(ask: Task, answer: Task) -> Result<Self, BenchError> {
        let mut answerer = Worker::start("answerer", &answer).await?;
        answerer.says::<()>().await?;
        let mut asker = Worker::start("asker", &ask).await?;
        asker.says::<()>().await?;
        Ok(Self { asker, _answerer: answerer })
    }

    async fn measure(&mut self, round_trips: usize) -> Result<RoundTrips, BenchError> {
        self.asker.tell(&round_trips).await?;
        self.asker.says().await
    }
}

impl Report for Latency {}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["mode", "p50 µs", "p99 µs", "p50 against TCP + TLS"]);
        let mut row = |mode: &str, p50: f64, p99: f64, against: String| {
            table.row([mode.to_owned(), format!("{p50:.1}"), format!("{p99:.1}"), against]);
        };
        row("TCP + TLS", self.tcp_tls_p50_us, self.tcp_tls_p99_us, String::new());
        row("bare quinn", self.quinn_p50_us, self.quinn_p99_us, self.quinn_ratio.to_string());
        row("embedded", self.embedded_p50_us, self.embedded_p99_us, self.embedded_ratio.to_string());
        row("daemons", self.daemons_p50_us, self.daemons_p99_us, self.daemons_ratio.to_string());
        row("daemons, beside bulk", self.loaded_p50_us, self.loaded_p99_us, String::new());
        write!(f, "{table}")
    }
}
