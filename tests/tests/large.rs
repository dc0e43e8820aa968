//! Messages that are longer than any window: each is let in whole, out of one pool, and all get through.

use std::{process, time::Duration};

use bytes::Bytes;
use tokio::task::JoinSet;
use trunkline::{Attachment, Error, ErrorKind, Expected, Gathered};
use trunkline_tests::{cluster::Cluster, in_time_of, payload::Random, sockets::peak_bytes};

const MIB: usize = 1 << 20;
/// The longest message that the defaults allow.
const MESSAGE_BYTES: usize = 64 * MIB;
/// So many at once.
const SENDERS: usize = 100;
/// Far less than one of the messages, so that only the pool can let one in.
const RECEIVE_BUDGET_BYTES: u64 = 8 * MIB as u64;
/// The budget, the pool for one message, the message that the application holds and the one that the senders share,
/// what waits in one process on both sides of the link, and 48 MiB for the program itself.
const PROCESS_BYTES_MAX: u64 = RECEIVE_BUDGET_BYTES + (3 * MESSAGE_BYTES + 48 * MIB) as u64;

/// What a node has that docs/operations.md, "What bounds memory", does not count: the program, its threads and allocator.
const PROGRAM_BYTES: u64 = 24 << 20;
/// One trunk's send window, the buffers of one process's link, and the state of each stream.
const NODE_COMMON_BYTES: u64 = (1 << 20) + (512 << 10) + SENDERS as u64 * (3 << 10);
/// What waits for the trunk: every stream comes from a producer of this node.
const NODE_A_BYTES: u64 = SENDERS as u64 * (256 << 10) + NODE_COMMON_BYTES;
/// What waits for the consumer's process: of the bound by streams and the bound by grants, the second is less.
const NODE_B_BYTES: u64 = RECEIVE_BUDGET_BYTES + MESSAGE_BYTES as u64 + NODE_COMMON_BYTES;

/// Alone in its file: what the process holds is what this test holds.
#[tokio::test]
async fn a_hundred_senders_of_the_longest_message_get_through_one_after_another_within_the_budget() {
    in_time_of(Duration::from_secs(240), async {
        let cluster = Cluster::builder().start().await;
        let consuming = Attachment::builder()
            .receive_budget_bytes(RECEIVE_BUDGET_BYTES)
            .connect(&cluster.node("node-b").local)
            .await
            .expect("node-b");
        let producing = cluster.node("node-a").attach().await;
        let consumer = consuming.job("large", "1").unwrap().consumer("c").unwrap().bind().await.unwrap();
        let address = consumer.address();
        let mut gather = consumer.gather(Expected::Count(SENDERS));

        let message = Random::new(17, 0).bytes(MESSAGE_BYTES);
        let job = producing.job("large", "1").unwrap();
        let mut sending: JoinSet<Result<(), Error>> = JoinSet::new();
        for number in 0..SENDERS {
            let producer = job.producer(format!("p-{number}")).unwrap();
            let (address, message) = (address.clone(), message.clone());
            sending.spawn(async move {
                let mut sender = producer.open(address).await?;
                if number == 0 {
                    let refused = sender.send(Bytes::from(vec![0; MESSAGE_BYTES + 1])).await.expect_err("too long");
                    assert_eq!(refused.kind(), ErrorKind::MessageTooLarge);
                    assert!(refused.to_string().contains(&format!("at most {MESSAGE_BYTES} may be sent")), "{refused}");
                }
                sender.send(message).await?;
                sender.finish().await
            });
        }
        let mut came = 0;
        while let Some(gathered) = gather.next().await {
            match gathered.expect("the link lives") {
                Gathered::Message { producer, message: found } => {
                    assert!(found == message, "{producer}: the message is another");
                    came += 1;
                }
                Gathered::Lost(lost) => panic!("{lost}"),
            }
        }
        assert_eq!((came, gather.finished()), (SENDERS, SENDERS));
        while let Some(sent) = sending.join_next().await {
            sent.expect("no task panics").expect("each is consumed");
        }
        let (a, b) = (cluster.node("node-a").pid, cluster.node("node-b").pid);
        let ceilings = [
            ("this process", process::id(), PROCESS_BYTES_MAX),
            ("node-a", a, PROGRAM_BYTES + NODE_A_BYTES),
            ("node-b", b, PROGRAM_BYTES + NODE_B_BYTES),
        ];
        for (whose, pid, ceiling) in ceilings {
            let peak = peak_bytes(pid);
            println!("{whose}: {} KiB at its peak, of {}", peak >> 10, ceiling >> 10);
            assert!(peak <= ceiling, "{whose}: {} KiB at its peak; at most {}", peak >> 10, ceiling >> 10);
        }
    })
    .await;
}
