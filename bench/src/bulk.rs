//! One run of many busy streams, whichever way they go: a producer's process, a consumer's, and what is between them.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::timeout;
use trunkline_tests::sockets;

use crate::{
    bare::{BareReceive, BareSend, Writers},
    error::BenchError,
    processes::{NODES, Site, Worker},
    report::mib,
    roles::{Consume, Load, Measured, Produce, Task, Total, Window},
};

/// How long the end of a run may take, when all that is under way is delivered.
const END_MAX: Duration = Duration::from_secs(60);
/// The same for writers that are known to come to no end; what they sent is not compared then.
const HOPELESS_END_MAX: Duration = Duration::from_secs(5);
/// On top of what a window may take: the start of processes, and opening all streams.
const START_MAX: Duration = Duration::from_secs(240);

/// The way that messages take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// Two processes, each with a node in it.
    Embedded,
    /// Two processes, and a daemon for each.
    Daemons,
    /// Two processes of quinn alone, with one writer for all streams.
    Bare,
    /// Two processes of quinn alone, with a task that writes for each stream.
    BareTaskPerStream,
}

impl Way {
    /// As tables and JSON name it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Daemons => "daemons",
            Self::Bare => "bare",
            Self::BareTaskPerStream => "bare_task_per_stream",
        }
    }
}

/// A run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Which way.
    pub(crate) way: Way,
    /// What is sent.
    pub(crate) load: Load,
    /// What of it is measured.
    pub(crate) window: Window,
    /// Whether each message is received with a call of its own. Bare quinn knows no messages.
    pub(crate) one_by_one: bool,
}

/// What a run gave.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// In the window.
    pub(crate) measured: Measured,
    /// The most memory that each process had resident, in MiB.
    pub(crate) rss_mib: BTreeMap<&'static str, f64>,
}

impl Run {
    /// Runs it, in a cluster of its own, and compares what both ends counted.
    ///
    /// # Errors
    /// What a process says; [`BenchError::Inexact`] when both ends do not agree; [`BenchError::Late`].
    pub(crate) async fn run(&self) -> Result<Outcome, BenchError> {
        let Self { way, load, window, one_by_one } = *self;
        let site = match way {
            Way::Daemons => Site::with_daemons("").await?,
            Way::Embedded | Way::Bare | Way::BareTaskPerStream => Site::without_daemons().await?,
        };
        let receive = match way {
            Way::Daemons | Way::Embedded => {
                let [_, place] = site.places();
                Task::Consume(Consume { place, load, window, one_by_one })
            }
            Way::Bare | Way::BareTaskPerStream => {
                let [_, files] = site.node_files();
                Task::BareReceive(BareReceive { files, load, window })
            }
        };
        let mut consumer = Worker::start("consumer", &receive).await?;
        let address: String = consumer.says().await?;
        let bare_send = |writers| {
            let [files, _] = site.node_files();
            Task::BareSend(BareSend { files, load, writers })
        };
        let send = match way {
            Way::Daemons | Way::Embedded => {
                let [place, _] = site.places();
                Task::Produce(Produce { place, address, load })
            }
            Way::Bare => bare_send(Writers::One),
            Way::BareTaskPerStream => bare_send(Writers::EachStream),
        };
        let mut producer = Worker::start("producer", &send).await?;
        self.measure(&site, &mut producer, &mut consumer).await
    }

    async fn measure(&self, site: &Site, producer: &mut Worker, consumer: &mut Worker) -> Result<Outcome, BenchError> {
        let hopeless = self.way == Way::BareTaskPerStream;
        let most = START_MAX + 2 * self.window.most;
        let late =
            |what: &str, most: Duration| BenchError::Late(format!("{what}, {}", self.describe()), most.as_secs());
        let begun = async { tokio::try_join!(producer.says::<()>(), consumer.says::<Measured>()) };
        let measured = match timeout(most, begun).await {
            Ok(measured) => measured?.1,
            // It moved too little to be measured: that is the finding.
            Err(_) if hopeless => Measured { seconds: most.as_secs_f64(), bytes: 0, jain: 0.0, rounds: 0 },
            Err(_) => return Err(late("the window", most)),
        };
        producer.tell(&()).await?;
        let end_max = if hopeless { HOPELESS_END_MAX } else { END_MAX };
        let totals = async { tokio::try_join!(producer.says::<Total>(), consumer.says::<Total>()) };
        match timeout(end_max, totals).await {
            Ok(totals) => {
                let (sent, received) = totals?;
                if sent != received {
                    let text = format!("{}: {sent:?} was sent and {received:?} received", self.describe());
                    return Err(BenchError::Inexact(text));
                }
            }
            Err(_) if hopeless => {}
            Err(_) => return Err(late("the end", end_max)),
        }
        Ok(Outcome { measured, rss_mib: peaks(site, producer, consumer) })
    }

    fn describe(&self) -> String {
        let Load { streams, message_bytes, .. } = self.load;
        format!("{} with {streams} streams of {message_bytes} bytes a message", self.way.word())
    }
}

/// The most memory that each process of a run has had resident, in MiB.
pub(crate) fn peaks(site: &Site, producer: &Worker, consumer: &Worker) -> BTreeMap<&'static str, f64> {
    let mut peaks =
        BTreeMap::from([("producer", mib(producer.peak_bytes())), ("consumer", mib(consumer.peak_bytes()))]);
    let daemons = NODES.iter().zip(site.daemons());
    peaks.extend(daemons.map(|(id, daemon)| (*id, mib(sockets::peak_bytes(daemon.pid)))));
    peaks
}
