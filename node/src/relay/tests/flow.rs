//! Random producers and consumers that speak as docs/adr/0010 says, over channels that are late, and the relays between
//! them, which share one pool.

use std::{collections::VecDeque, env};

use trunkline_session::Turn;

use super::*;

const SEEDS: std::ops::Range<u64> = 0..1000;
/// What a stream may hold beside the budget: a message's length, and the end mark.
const BESIDE: u64 = 4 + MARK;
/// How often a consumer asks one stream for credit back: it must let it come to its end.
const RECLAIMS_MAX: u64 = 30;

/// splitmix64.
struct Random(u64);

impl Random {
    /// From `low` to `high`, both included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (word ^ (word >> 31)) % (high - low + 1)
    }

    fn pick<T: Copy, const N: usize>(&mut self, of: [T; N]) -> T {
        of[usize::try_from(self.between(0, N as u64 - 1)).unwrap()]
    }
}

/// What is said between the ends and the relay.
#[derive(Debug, Clone, Copy)]
enum Said {
    Data { offset: u64, bytes: usize, fin: bool },
    Want(u64),
    Limit(u64),
    Credit { received: u64, consumed: u64, limit: u64, finished: bool },
    Reclaim(u64),
}

/// Sends what it may, says what it wants, and gives back what it is asked for.
#[derive(Default)]
struct Producer {
    /// How many bytes it has before its end mark.
    total: u64,
    limit: u64,
    sent: u64,
    wanted_told: u64,
    fin_sent: bool,
}

/// Grants as it likes, but for ever: who wants gets something.
#[derive(Default)]
struct Consumer {
    limit: u64,
    received: u64,
    fin_received: bool,
    wanted: u64,
    reclaiming: Option<u64>,
    reclaims: u64,
    finished: bool,
    step_max: u64,
}

struct Stream {
    relay: Rc<Relay>,
    id: u64,
    producer: Producer,
    consumer: Consumer,
    /// From the producer to the relay, and back.
    up_in: VecDeque<Said>,
    up_out: VecDeque<Said>,
    /// From the relay to the consumer: control may overtake data. And back.
    down_control: VecDeque<Said>,
    down_data: VecDeque<Said>,
    down_in: VecDeque<Said>,
    /// How far the producer may send, as the relay knows it.
    told: u64,
    asked: Option<u64>,
}

struct Flow {
    random: Random,
    budget: u64,
    relays: Rc<Relays>,
    up: Rc<Outlet>,
    down: Rc<Outlet>,
    streams: Vec<Stream>,
}

impl Flow {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let budget = random.pick([1, 1000, 5000, 20_000, 64 << 10, 1 << 20]);
        let pool = Pool::shared(budget, random.pick([1000, 1 << 20]));
        let (relays, up, down) = (relays(), Outlet::new(Kind::Trunk), Outlet::new(Kind::Trunk));
        let open = Rig::new(None).relay.open.clone();
        let longest = if budget < 1000 { 500 } else { 30_000 };
        let streams = (1..=random.between(1, 6)).map(|id| {
            let relay = relays.add(open.clone(), None, End { outlet: Rc::clone(&up), stream: Some(id) }, None);
            relay.connect_down(&down, &pool, Some(id), BIND);
            let limit = random.pick([0, 4, 100, 10_000]);
            let accept = Accept { stream: id, incarnation: Incarnation::from_bytes(&[2; 16]).unwrap(), limit };
            relay.accept(&accept);
            Stream {
                relay,
                id,
                producer: Producer { total: random.between(0, longest), ..Producer::default() },
                consumer: Consumer { limit, step_max: random.pick([50, 2000, 100_000]), ..Consumer::default() },
                up_in: VecDeque::new(),
                up_out: VecDeque::new(),
                down_control: VecDeque::new(),
                down_data: VecDeque::new(),
                down_in: VecDeque::new(),
                told: 0,
                asked: None,
            }
        });
        let streams = streams.collect();
        Self { random, budget, relays, up, down, streams }
    }

    /// One thing happens, if it can; whether it did.
    fn step(&mut self, what: u64, index: usize) -> bool {
        let Self { random, up, down, streams, .. } = self;
        match what {
            0 => write_up(up, streams),
            1 => write_down(down, streams, random),
            2 => streams[index].produce(random),
            3 => streams[index].consume(random),
            4 => streams[index].hear_producer(),
            5 => streams[index].hear_consumer(),
            6 => streams[index].tell_producer(),
            7 => streams[index].tell_consumer(true),
            _ => streams[index].tell_consumer(false),
        }
    }

    fn run(&mut self) {
        const KINDS: u64 = 9;
        while self.streams.iter().any(|stream| !stream.consumer.finished || !stream.down_in.is_empty()) {
            let count = self.streams.len();
            let (what, index) = (self.random.between(0, KINDS - 1), self.random.between(0, count as u64 - 1));
            let moved = self.step(what, usize::try_from(index).unwrap())
                || (0..KINDS).any(|what| (0..count).any(|index| self.step(what, index)));
            assert!(moved, "stuck: {:?}", self.streams.iter().map(Stream::describe).collect::<Vec<_>>());
            let held: u64 = self.streams.iter().map(|stream| stream.relay.snapshot().queued).sum();
            assert!(held <= self.budget + BESIDE * count as u64, "{held} bytes wait, with {} to share", self.budget);
        }
        for Stream { producer, consumer, .. } in &self.streams {
            assert_eq!(consumer.received, producer.total + MARK);
        }
        assert_eq!(self.relays.count(), 0);
    }
}

/// The writer of the upper connection.
fn write_up(up: &Outlet, streams: &mut [Stream]) -> bool {
    let Some(next) = up.next_control() else { return false };
    let Next::News(relay, _) = next else { panic!("news only") };
    let stream = streams.iter_mut().find(|stream| Rc::ptr_eq(&stream.relay, &relay)).unwrap();
    let news = relay.take_up();
    assert_eq!(news.abort, None);
    let credit = news.credit.map(|credit| (credit.received, credit.consumed, credit.limit, credit.finished));
    let accept = news.accepted_limit().map(|limit| (0, 0, limit, false));
    for (received, consumed, limit, finished) in accept.into_iter().chain(credit) {
        // Never more than both allow; while credit is asked back, no more than what was asked for.
        if limit > stream.told {
            assert!(limit <= relay.snapshot().limit, "told {limit}, allowed {}", relay.snapshot().limit);
        }
        // Who has sent its last byte has answered with it.
        let used = if stream.producer.fin_sent { stream.producer.total } else { 0 };
        let asked = stream.asked.map(|asked| asked.max(used));
        assert!(asked.is_none_or(|asked| limit <= asked), "told {limit} while asked for {asked:?}");
        stream.told = stream.told.max(limit);
        stream.up_out.push_back(Said::Credit { received, consumed, limit, finished });
    }
    if let Some(Reclaim { limit, .. }) = news.reclaim {
        assert!(stream.asked.replace(limit).is_none(), "asked twice");
        stream.up_out.push_back(Said::Reclaim(limit));
    }
    true
}

/// The writer of the lower connection.
fn write_down(down: &Outlet, streams: &mut [Stream], random: &mut Random) -> bool {
    let Some(next) = down.next() else { return false };
    match next {
        Next::News(relay, _) => {
            let stream = streams.iter_mut().find(|stream| Rc::ptr_eq(&stream.relay, &relay)).unwrap();
            let news = relay.take_down();
            assert_eq!(news.abort, None);
            stream.down_control.extend(news.limit.map(|limit| Said::Limit(limit.limit)));
            stream.down_control.extend(news.want.map(|want| Said::Want(want.wanted)));
        }
        Next::Data(Turn { item: relay, .. }) => {
            let stream = streams.iter_mut().find(|stream| Rc::ptr_eq(&stream.relay, &relay)).unwrap();
            let quantum = usize::try_from(random.between(1, 20_000)).unwrap();
            if let Some(Taken { offset, bytes, fin, .. }) = relay.take_data(quantum) {
                stream.down_data.push_back(Said::Data { offset, bytes, fin });
                let more = relay.passed();
                down.served(&relay, bytes, more);
            }
        }
        Next::Frame(_) => panic!("nobody pushes frames"),
    }
    true
}

impl Stream {
    fn describe(&self) -> String {
        let Self { producer: p, consumer: c, .. } = self;
        let now = self.relay.snapshot();
        format!(
            "sent {} of {} limit {}; passed {} queued {}; received {} limit {} wanted {} asked {:?}",
            p.sent, p.total, p.limit, now.passed, now.queued, c.received, c.limit, c.wanted, c.reclaiming
        )
    }

    fn produce(&mut self, random: &mut Random) -> bool {
        let producer = &mut self.producer;
        let may = producer.limit.min(producer.total).saturating_sub(producer.sent);
        if may > 0 {
            let bytes = random.between(1, may);
            let said = Said::Data { offset: producer.sent, bytes: usize::try_from(bytes).unwrap(), fin: false };
            producer.sent += bytes;
            self.up_in.push_back(said);
        } else if producer.sent < producer.total && producer.wanted_told <= producer.limit {
            let wanted = random.between(producer.limit + 1, producer.total.max(producer.limit + 1));
            producer.wanted_told = wanted;
            self.up_in.push_back(Said::Want(wanted));
        } else if producer.sent == producer.total && !producer.fin_sent {
            producer.fin_sent = true;
            self.up_in.push_back(Said::Data { offset: producer.sent, bytes: END_MARK_BYTES, fin: true });
        } else {
            return false;
        }
        true
    }

    fn hear_producer(&mut self) -> bool {
        let Some(said) = self.up_in.pop_front() else { return false };
        match said {
            Said::Data { offset, bytes, fin } => self.relay.data(offset, Bytes::from(vec![7; bytes]), fin),
            Said::Want(wanted) => self.relay.want(&Want { stream: self.id, epoch: 0, wanted }),
            Said::Limit(limit) => {
                self.asked = None;
                self.told = limit;
                self.relay.limit(&Limit { stream: self.id, epoch: 0, limit });
            }
            Said::Credit { .. } | Said::Reclaim(_) => panic!("a producer does not say {said:?}"),
        }
        true
    }

    fn tell_producer(&mut self) -> bool {
        let Some(said) = self.up_out.pop_front() else { return false };
        let producer = &mut self.producer;
        match said {
            Said::Credit { limit, .. } => producer.limit = producer.limit.max(limit),
            Said::Reclaim(asked) => {
                producer.limit = producer.limit.min(asked.max(producer.sent));
                producer.wanted_told = producer.wanted_told.min(producer.limit);
                self.up_in.push_back(Said::Limit(producer.limit));
            }
            _ => panic!("a producer does not hear {said:?}"),
        }
        true
    }

    fn tell_consumer(&mut self, control: bool) -> bool {
        let queue = if control { &mut self.down_control } else { &mut self.down_data };
        let Some(said) = queue.pop_front() else { return false };
        let consumer = &mut self.consumer;
        match said {
            Said::Data { offset, bytes, fin } => {
                assert_eq!(offset, consumer.received);
                consumer.received += bytes as u64;
                consumer.fin_received = fin;
                // The end mark needs no credit, and a turn may end within it.
                let most = consumer.limit + if consumer.received > self.producer.total { MARK } else { 0 };
                assert!(consumer.received <= most, "{} came, {} were allowed", consumer.received, consumer.limit);
            }
            Said::Want(wanted) => consumer.wanted = consumer.wanted.max(wanted),
            Said::Limit(limit) => {
                let asked = consumer.reclaiming.take().expect("an answer to a question");
                assert!(limit >= asked.min(consumer.limit) && limit <= consumer.limit, "{limit} given back");
                assert!(limit + MARK >= consumer.received, "{limit} given back of {} that came", consumer.received);
                consumer.limit = limit;
                // What was wanted within the credit that went back is said again, behind.
                consumer.wanted = 0;
            }
            Said::Credit { .. } | Said::Reclaim(_) => panic!("a consumer does not hear {said:?}"),
        }
        true
    }

    fn hear_consumer(&mut self) -> bool {
        let Some(said) = self.down_in.pop_front() else { return false };
        match said {
            Said::Credit { received, consumed, limit, finished } => {
                self.relay.credit(&Credit { stream: self.id, epoch: 0, received, consumed, limit, finished });
            }
            Said::Reclaim(limit) => self.relay.reclaim(&Reclaim { stream: self.id, epoch: 0, limit }),
            _ => panic!("a consumer does not say {said:?}"),
        }
        true
    }

    fn consume(&mut self, random: &mut Random) -> bool {
        let consumer = &mut self.consumer;
        let wants = consumer.wanted > consumer.limit;
        let reclaims = !wants && consumer.reclaims < RECLAIMS_MAX && random.between(0, 3) == 0;
        if consumer.finished {
            return false;
        }
        if consumer.fin_received {
            consumer.finished = true;
        } else if consumer.reclaiming.is_none() && reclaims {
            let asked = random.between(0, consumer.limit);
            consumer.reclaims += 1;
            consumer.reclaiming = Some(asked);
            self.down_in.push_back(Said::Reclaim(asked));
            return true;
        } else if consumer.reclaiming.is_none() && wants {
            consumer.limit += random.between(1, consumer.step_max);
        } else {
            return false;
        }
        let limit = consumer.limit;
        let (received, finished) = (consumer.received, consumer.finished);
        self.down_in.push_back(Said::Credit { received, consumed: received, limit, finished });
        true
    }
}

#[test]
fn whatever_is_granted_and_asked_back_all_arrives_and_no_more_waits_than_the_pool_has() {
    if let Ok(seed) = env::var("SEED") {
        return Flow::new(seed.parse().unwrap()).run();
    }
    for seed in SEEDS {
        let outcome = std::panic::catch_unwind(|| Flow::new(seed).run());
        assert!(outcome.is_ok(), "replay with SEED={seed}");
    }
}
