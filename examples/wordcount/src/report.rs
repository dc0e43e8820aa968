//! The summary: for people, or as one JSON object.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use serde::Serialize;

use crate::{
    jobs::{Half, Stalled},
    observe::NodeView,
    outage::Survived,
    plan::{Part, Plan, Worker},
};

/// How many of the most frequent words are told.
pub(crate) const TOP: usize = 20;

/// All that is told in the end. Files and bytes are those of the corpus; words are those that every job counts, in all
/// rounds over it; streams, messages and stream bytes are those of all jobs together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Where the files come from.
    pub(crate) corpus: String,
    /// Words in all.
    pub(crate) total_words: u64,
    /// Different words.
    pub(crate) distinct_words: usize,
    /// Regular files.
    pub(crate) files: usize,
    /// Bytes of the files.
    pub(crate) bytes: u64,
    /// The most frequent words and how often each was seen.
    pub(crate) top: Vec<(String, u64)>,
    /// Whether every word of every job, and every counter, equals what the plain loop found.
    pub(crate) verified: bool,
    /// Counts at once.
    pub(crate) jobs: usize,
    /// How many times each of them counts every file.
    pub(crate) rounds: u64,
    /// Mappers, and reducers, on each node and in each job.
    pub(crate) per_node: usize,
    /// Whether each node was embedded in the process of its mappers and reducers; otherwise it was a daemon.
    pub(crate) embedded: bool,
    /// Streams, one for each mapper and reducer of a job.
    pub(crate) streams: usize,
    /// Messages sent.
    pub(crate) messages: u64,
    /// Bytes of their payload.
    pub(crate) stream_bytes: u64,
    /// 10^6 bytes of payload a second, while the clock ran.
    pub(crate) stream_mb_per_s: f64,
    /// From the word to begin until the last reducer was gone, and with it the node that it was embedded with, if any.
    /// Where a job stalled: the time of the two halves, until the last reducer had counted all of it.
    pub(crate) seconds: f64,
    /// From the first certificate until all streams were open.
    pub(crate) setup_seconds: f64,
    /// The plain loop and the comparison.
    pub(crate) check_seconds: f64,
    /// The node that was killed; its keys stand beside the others, or are missing.
    #[serde(flatten)]
    pub(crate) outage: Option<OutageSummary>,
    /// The job that stalled; its keys stand beside the others, or are missing.
    #[serde(flatten)]
    pub(crate) stall: Option<StallSummary>,
    /// Each node.
    pub(crate) nodes: Vec<NodeSummary>,
}

/// The node whose daemon was killed amidst the count, and started again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct OutageSummary {
    /// Its name.
    pub(crate) killed_node: String,
    /// When it was killed, from the word to begin on.
    pub(crate) killed_after_seconds: f64,
    /// When processes could attach to it again, from then on.
    pub(crate) back_after_seconds: f64,
}

impl OutageSummary {
    /// Of an outage that is over.
    pub(crate) fn new(survived: &Survived) -> Self {
        let seconds = |time: Duration| rounded(time.as_secs_f64(), 3);
        Self {
            killed_node: survived.node.clone(),
            killed_after_seconds: seconds(survived.killed_after),
            back_after_seconds: seconds(survived.back_after),
        }
    }

    /// For people.
    fn sentence(&self) -> String {
        format!(
            "the daemon of {} was killed after {:.2} s, started again, and back {:.2} s later",
            self.killed_node, self.killed_after_seconds, self.back_after_seconds
        )
    }
}

/// What came of reducers that slept while others counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct StallSummary {
    /// Who slept.
    pub(crate) stalled_reducers: usize,
    /// Streams to them that had more to send and were blocked when all others had counted everything.
    pub(crate) stalled_streams: u64,
    /// Payload that these streams had taken by then, none of it read.
    pub(crate) stalled_bytes: u64,
    /// Payload of that job in all: read and counted after its reducers woke up.
    pub(crate) stalled_job_bytes: u64,
    /// 10^6 bytes of payload a second of the other jobs, before anybody sent to those who sleep.
    pub(crate) alone_mb_per_s: f64,
    /// The same while these streams were blocked.
    pub(crate) beside_stalled_mb_per_s: f64,
}

impl StallSummary {
    /// Of the stalled job of `plan`.
    pub(crate) fn new(stalled: &Stalled, plan: &Plan) -> Self {
        let rate = |half: Half| mb_per_s(half.stream_bytes, half.time);
        Self {
            stalled_reducers: plan.stall,
            stalled_streams: stalled.then.blocked,
            stalled_bytes: stalled.then.stream_bytes,
            stalled_job_bytes: stalled.reduced.stream_bytes,
            alone_mb_per_s: rate(stalled.alone),
            beside_stalled_mb_per_s: rate(stalled.beside),
        }
    }

    /// For people.
    fn sentence(&self) -> String {
        let sleepers = several(self.stalled_reducers as u64, "reducer");
        let (streams, blocked) = (several(self.stalled_streams, "stream"), short(self.stalled_bytes));
        format!(
            "{sleepers} of another job slept: {streams} blocked with {blocked}; {} MB/s beside them, {} MB/s before; \
             then {} read",
            self.beside_stalled_mb_per_s,
            self.alone_mb_per_s,
            short(self.stalled_job_bytes)
        )
    }
}

/// What was seen of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NodeSummary {
    /// Its name.
    pub(crate) id: String,
    /// UDP sockets of the node's process, the highest count.
    pub(crate) udp_sockets: usize,
    /// TCP sockets of the node's process, the highest count.
    pub(crate) tcp_sockets: usize,
    /// Trunks while all streams were open.
    pub(crate) trunks: usize,
    /// Streams that the node carried then, those between its own processes too.
    pub(crate) streams: usize,
    /// File descriptors of the node's process, the highest count.
    pub(crate) fds: usize,
    /// What its processes would have needed with a socket for each pair.
    pub(crate) sockets_per_pair: usize,
}

impl NodeSummary {
    /// Of a node that takes part in `plan`.
    pub(crate) fn new(view: &NodeView, plan: &Plan) -> Self {
        let is_here = |worker: &Worker| plan.is_stalled(worker.job) && plan.nodes[plan.node_of(*worker)] == view.id;
        let sleeping = plan.workers(Part::Reduce).filter(is_here).count();
        let stalled = plan.stall + sleeping * plan.nodes.len();
        Self {
            id: view.id.clone(),
            udp_sockets: view.sockets.udp,
            tcp_sockets: view.sockets.tcp,
            trunks: view.trunks,
            streams: view.streams,
            fds: view.sockets.fds,
            // Every producer to all consumers of its job, and the same from the consumers' side.
            sockets_per_pair: 2 * plan.jobs * plan.per_node * plan.width() + stalled,
        }
    }
}

/// 10^6 bytes a second, to a tenth.
#[expect(clippy::cast_precision_loss, reason = "a tenth is shown")]
pub(crate) fn mb_per_s(bytes: u64, time: Duration) -> f64 {
    rounded(bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9), 1)
}

/// To so many `digits` after the point: more would promise what no clock holds.
pub(crate) fn rounded(figure: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (figure * scale).round() / scale
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = self.top.first().map_or(0, |(_, count)| grouped(*count).len());
        match self.top.len() {
            0 => writeln!(f, "No words")?,
            1 => writeln!(f, "The most frequent word")?,
            length => writeln!(f, "The {length} most frequent words")?,
        }
        for (word, count) in &self.top {
            writeln!(f, "  {:>widest$}  {word}", grouped(*count))?;
        }
        let checked = match (self.verified, self.jobs) {
            (false, _) => "WRONG: it differs from one plain loop over the same files",
            (true, 1) => "counted again in one plain loop: every word is equal",
            (true, _) => "counted again in one plain loop: every word of every job is equal",
        };
        let mut times = if self.jobs == 1 { String::new() } else { format!(", counted {} times at once", self.jobs) };
        if self.rounds > 1 {
            let _ = write!(times, ", in {} rounds over the files", grouped(self.rounds));
        }
        writeln!(f)?;
        let rows = [
            (
                "words",
                format!(
                    "{}, {} of them distinct{times}",
                    grouped(self.total_words),
                    grouped(self.distinct_words as u64)
                ),
            ),
            ("files", format!("{}, {}", grouped(self.files as u64), megabytes(self.bytes))),
            ("check", checked.to_owned()),
            (
                "time",
                format!(
                    "{:.2} s to count; before that {:.2} s until all streams were open, after it {:.2} s to check",
                    self.seconds, self.setup_seconds, self.check_seconds
                ),
            ),
            ("nodes", self.hosts()),
            (
                "streams",
                format!(
                    "{} with {}, {} of payload: {} MB/s",
                    grouped(self.streams as u64),
                    several(self.messages, "message"),
                    megabytes(self.stream_bytes),
                    self.stream_mb_per_s
                ),
            ),
        ];
        let outage = self.outage.iter().map(|outage| ("outage", outage.sentence()));
        let stall = self.stall.iter().map(|stall| ("stall", stall.sentence()));
        for (name, text) in rows.into_iter().chain(outage).chain(stall) {
            writeln!(f, "{name:<9}{text}")?;
        }
        writeln!(f)?;
        f.write_str(&self.table())
    }
}

impl Summary {
    /// What the nodes were.
    fn hosts(&self) -> String {
        let (nodes, workers) = (self.nodes.len() as u64, grouped((2 * self.per_node * self.jobs) as u64));
        let each = if nodes == 1 { "it" } else { "each" };
        if self.embedded {
            format!("{}, in {each} a node and its {workers} mappers and reducers", several(nodes, "process"))
        } else {
            format!("{}, {workers} map and reduce processes attached to {each}", several(nodes, "daemon"))
        }
    }

    fn table(&self) -> String {
        let heads = ["node", "UDP sockets", "TCP sockets", "trunks", "streams", "open files", "sockets, one per pair"];
        let rows = self.nodes.iter().map(|node| {
            let counts =
                [node.udp_sockets, node.tcp_sockets, node.trunks, node.streams, node.fds, node.sockets_per_pair];
            std::iter::once(node.id.clone()).chain(counts.map(|count| grouped(count as u64))).collect::<Vec<_>>()
        });
        let rows: Vec<_> = std::iter::once(heads.map(str::to_owned).to_vec()).chain(rows).collect();
        let widths = heads.iter().enumerate().map(|(at, _)| rows.iter().map(|row| row[at].len()).max().unwrap_or(0));
        let widths: Vec<_> = widths.collect();
        let mut table = String::new();
        for row in &rows {
            let _ = write!(table, "{:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                let _ = write!(table, "  {cell:>width$}");
            }
            table.push('\n');
        }
        table
    }
}

/// `1 file`, `1,234 files`, `2 processes`.
pub(crate) fn several(count: u64, thing: &str) -> String {
    let ending = match count {
        1 => "",
        _ if thing.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {thing}{ending}", grouped(count))
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 MB`, or `456 kB` where that would say little.
fn short(bytes: u64) -> String {
    if bytes < 1_000_000 { format!("{} kB", bytes / 1_000) } else { megabytes(bytes) }
}

/// `12.3 MB`, of 10^6 bytes.
fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", grouped(bytes / 1_000_000), bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::Sockets;

    const STALL: StallSummary = StallSummary {
        stalled_reducers: 1,
        stalled_streams: 3,
        stalled_bytes: 400_000,
        stalled_job_bytes: 2_000_000,
        alone_mb_per_s: 120.0,
        beside_stalled_mb_per_s: 119.5,
    };

    fn summary() -> Summary {
        let plan = Plan {
            run: "r".to_owned(),
            nodes: vec!["node-1".to_owned(); 3],
            per_node: 2,
            jobs: 2,
            rounds: Some(1),
            stall: 0,
            embedded: false,
        };
        let sockets = Sockets { udp: 1, tcp: 0, fds: 17 };
        let view = NodeView { id: "node-1".to_owned(), pid: None, sockets, trunks: 2, streams: 40 };
        Summary {
            corpus: "here".to_owned(),
            total_words: 1_234_567,
            distinct_words: 999,
            files: 3,
            bytes: 12_345_678,
            top: vec![("the".to_owned(), 1_000), ("a".to_owned(), 20)],
            verified: true,
            jobs: 2,
            rounds: 1,
            per_node: 2,
            embedded: false,
            streams: plan.streams(),
            messages: 4,
            stream_bytes: 5_000_000,
            stream_mb_per_s: mb_per_s(5_000_000, Duration::from_secs(2)),
            seconds: 2.0,
            setup_seconds: 0.5,
            check_seconds: 1.0,
            outage: None,
            stall: None,
            nodes: vec![NodeSummary::new(&view, &plan)],
        }
    }

    #[test]
    fn people_read_aligned_figures() {
        let text = summary().to_string();
        assert!(text.contains("  1,000  the\n     20  a\n"), "{text}");
        assert!(text.contains("files    3, 12.3 MB\n"), "{text}");
        assert!(text.contains("streams  72 with 4 messages, 5.0 MB of payload: 2.5 MB/s\n"), "{text}");
        let expected = "node    UDP sockets  TCP sockets  trunks  streams  open files  sockets, one per pair\n\
                        node-1            1            0       2       40          17                     48\n";
        assert!(text.ends_with(expected), "{text}");
        assert!(text.contains("nodes    1 daemon, 8 map and reduce processes attached to it\n"), "{text}");
        let node = NodeSummary { id: "node-2".to_owned(), ..summary().nodes.remove(0) };
        let embedded = Summary { embedded: true, nodes: vec![node; 2], ..summary() }.to_string();
        assert!(
            embedded.contains("nodes    2 processes, in each a node and its 8 mappers and reducers\n"),
            "{embedded}"
        );
        assert!(Summary { verified: false, ..summary() }.to_string().contains("check    WRONG"));
    }

    #[test]
    fn one_is_not_told_as_many() {
        let one = Summary { top: vec![("the".to_owned(), 1)], streams: 1, messages: 1, files: 1, ..summary() };
        let text = one.to_string();
        assert!(text.starts_with("The most frequent word\n  1  the\n"), "{text}");
        assert!(text.contains("streams  1 with 1 message, "), "{text}");
        assert!(Summary { top: Vec::new(), ..one }.to_string().starts_with("No words\n\n"));
        assert_eq!([0, 1, 1_000].map(|count| several(count, "file")), ["0 files", "1 file", "1,000 files"]);
    }

    #[test]
    fn the_json_object_has_what_it_promises() {
        let json = serde_json::to_value(summary()).unwrap();
        assert_eq!(json["top"][0], serde_json::json!(["the", 1000]));
        assert_eq!(json["nodes"][0]["udp_sockets"], 1);
        for key in ["total_words", "distinct_words", "files", "bytes", "verified", "embedded", "streams", "messages"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["stream_bytes"], 5_000_000);
        assert_eq!(json["stream_mb_per_s"], 2.5);
        assert!(json.get("stalled_streams").is_none() && json.get("stall").is_none());
        let json = serde_json::to_value(Summary { stall: Some(STALL), ..summary() }).unwrap();
        assert_eq!((&json["stalled_streams"], &json["beside_stalled_mb_per_s"]), (&3.into(), &119.5.into()));
    }

    #[test]
    fn an_outage_is_one_line_and_so_many_keys_and_rounds_are_told_where_there_are_several() {
        let (killed_after, back_after) = (Duration::from_millis(2_004), Duration::from_micros(571_400));
        let survived = Survived { node: "node-2".to_owned(), killed_after, back_after };
        let outage = || Some(OutageSummary::new(&survived));
        let text = Summary { outage: outage(), rounds: 3, ..summary() }.to_string();
        let expected = "outage   the daemon of node-2 was killed after 2.00 s, started again, and back 0.57 s later\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains(" distinct, counted 2 times at once, in 3 rounds over the files\n"), "{text}");
        let json = serde_json::to_value(Summary { outage: outage(), ..summary() }).unwrap();
        assert_eq!((&json["killed_node"], &json["rounds"]), (&"node-2".into(), &1.into()));
        assert_eq!((&json["killed_after_seconds"], &json["back_after_seconds"]), (&2.004.into(), &0.571.into()));
        let calm = summary();
        assert!(serde_json::to_value(&calm).unwrap().get("killed_node").is_none());
        assert!(!calm.to_string().contains("outage") && !calm.to_string().contains("rounds"), "{calm}");
    }

    #[test]
    fn a_stall_is_one_line_and_counts_as_sockets() {
        let text = Summary { stall: Some(STALL), ..summary() }.to_string();
        let expected = "stall    1 reducer of another job slept: 3 streams blocked with 400 kB; 119.5 MB/s beside them, \
                        120.0 MB/s before; then 2.0 MB read\n";
        assert!(text.contains(&expected.replace("120.0", "120")), "{text}");
        let nodes = ["node-1", "node-2"].map(str::to_owned).into();
        let plan =
            Plan { run: "r".to_owned(), nodes, per_node: 1, jobs: 1, rounds: Some(1), stall: 3, embedded: false };
        let sockets = |id: &str| {
            let view = NodeView { id: id.to_owned(), pid: None, sockets: Sockets::default(), trunks: 1, streams: 0 };
            NodeSummary::new(&view, &plan).sockets_per_pair
        };
        assert_eq!((sockets("node-1"), sockets("node-2")), (4 + 3 + 4, 4 + 3 + 2));
    }
}
