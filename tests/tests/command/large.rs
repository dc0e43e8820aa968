//! Two gibibytes from a file through two daemons, and many long messages to an output that nobody reads: what the processes
//! needed of memory for it.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use futures_util::future::join_all;
use tokio::{
    io::AsyncReadExt as _,
    join,
    time::{sleep, timeout},
};
use trunkline_tests::{
    binaries,
    cluster::Cluster,
    payload::{Random, seed},
    sockets::peak_bytes,
};

use super::{ends, run, trunkline};

const FILE_BYTES: usize = 2 << 30;
const PIECE_BYTES: usize = 1 << 20;
/// A pipe and what is read ahead of it hold less: when so much is missing, the receiver cannot have written all.
const HELD_BACK_BYTES: usize = 4 * PIECE_BYTES;

/// What a program needs that carries nothing: its code as far as it was touched, its runtime, the allocator's slack.
const PROGRAM_BYTES: u64 = 24 << 20;
/// docs/operations.md, "What bounds memory": a consuming process with the default budget and pool, and what `recv` has in
/// hand beside: two batches, of what a stream's window or the longest message holds.
const RECV_BYTES: u64 = (256 << 20) + (64 << 20) + 2 * (64 << 20) + 4096;
/// A producing process: the budget and one message beyond it; and what is read ahead.
const SEND_BYTES: u64 = (256 << 20) + (64 << 10) + 4 * (256 << 10);
/// A node with one stream, one trunk, one process: what waits for the trunk, or for the process; QUIC's send window; the
/// link's buffers; state.
const NODE_A_BYTES: u64 = (256 << 10) + (1 << 20) + (512 << 10) + (3 << 10);
const NODE_B_BYTES: u64 = (1152 << 10) * 7 / 8 + (1 << 20) + (512 << 10) + (3 << 10);

#[tokio::test]
async fn two_gibibytes_come_out_as_they_went_in_and_memory_stays_below_its_formula() {
    // Before the time starts.
    let _ = binaries::trunkline();
    let body = async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        let path = cluster.folder().join("large");
        let (mut file, mut went_in) = (BufWriter::new(File::create(&path).unwrap()), Context::new(&SHA256));
        let mut random = Random::new(seed(), 2);
        for _ in 0..FILE_BYTES / PIECE_BYTES {
            let piece = random.bytes(PIECE_BYTES);
            went_in.update(&piece);
            file.write_all(&piece).unwrap();
        }
        file.flush().unwrap();

        let mut recv = trunkline(b, ["recv", "job/consumer", "--quiet"]).spawn().unwrap();
        let send = trunkline(a, ["send", "job/consumer@node-b", "--file", path.to_str().unwrap()]).spawn().unwrap();
        let mut out = recv.stdout.take().unwrap();
        let (mut came_out, mut length, mut piece) = (Context::new(&SHA256), 0, vec![0; PIECE_BYTES]);
        let mut peaks = None;
        loop {
            if peaks.is_none() && length >= FILE_BYTES - HELD_BACK_BYTES {
                // Nobody has ended yet: the receiver is not rid of the rest, and the sender waits for the receiver.
                peaks = Some([send.id().unwrap(), a.pid, b.pid, recv.id().unwrap()].map(peak_bytes));
            }
            let read = out.read(&mut piece).await.unwrap();
            if read == 0 {
                break;
            }
            came_out.update(&piece[..read]);
            length += read;
        }
        let (sent, received) = join!(ends(send, b""), ends(recv, b""));
        sent.with(0, "");
        received.with(0, "");
        assert_eq!(length, FILE_BYTES);
        assert_eq!(came_out.finish().as_ref(), went_in.finish().as_ref());

        let bounds = [SEND_BYTES, NODE_A_BYTES, NODE_B_BYTES, RECV_BYTES];
        for ((peak, bound), who) in peaks.unwrap().into_iter().zip(bounds).zip(["send", "node-a", "node-b", "recv"]) {
            println!("{who}: {} KiB at most, {} KiB allowed", peak >> 10, (bound + PROGRAM_BYTES) >> 10);
            assert!(peak <= bound + PROGRAM_BYTES, "{who} had {peak} bytes resident, above {bound} + {PROGRAM_BYTES}");
        }
    };
    timeout(Duration::from_secs(600), body).await.expect("two gibibytes take less than ten minutes");
}

const LINES: usize = 12;
const LINE_BYTES: usize = 60 << 20;

#[tokio::test]
async fn an_output_that_nobody_reads_holds_what_the_formula_says_however_many_send() {
    let _ = binaries::trunkline();
    let body = async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        let line = vec![b'x'; LINE_BYTES];
        let expect = LINES.to_string();
        let mut recv = trunkline(b, ["recv", "job/lines", "--lines", "--quiet", "--expect", &expect]).spawn().unwrap();
        let sends = (0..LINES).map(|_| run(trunkline(a, ["send", "job/lines@node-b", "--lines"]), &line));
        let mut out = recv.stdout.take().unwrap();
        let read = async {
            // Until nothing moves any more: a receiver that took all it could get has it by then.
            let mut offsets = Vec::new();
            let mut still = 0;
            while still < 5 {
                sleep(Duration::from_millis(100)).await;
                let streams = b.status().await.streams;
                let now: Vec<u64> = streams.iter().map(|stream| stream.offset).collect();
                still = if now == offsets && now.iter().any(|&offset| offset > 0) { still + 1 } else { 0 };
                offsets = now;
            }
            let peak = peak_bytes(recv.id().unwrap());
            let (mut length, mut piece) = (0, vec![0; PIECE_BYTES]);
            loop {
                match out.read(&mut piece).await.unwrap() {
                    0 => return (peak, length),
                    read => length += read,
                }
            }
        };
        let (sent, (peak, length)) = join!(join_all(sends), read);
        sent.into_iter().for_each(|sent| drop(sent.with(0, "")));
        ends(recv, b"").await.with(0, "");
        assert_eq!(length, LINES * (LINE_BYTES + 1));
        println!("recv: {} KiB at most, {} KiB allowed", peak >> 10, (RECV_BYTES + PROGRAM_BYTES) >> 10);
        assert!(peak <= RECV_BYTES + PROGRAM_BYTES, "recv had {peak} bytes resident");
    };
    timeout(Duration::from_secs(300), body).await.expect("it takes less than five minutes");
}
