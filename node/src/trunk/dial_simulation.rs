//! Two machines, node-a and node-b, and a network between them that loses, delays and reorders what it likes, while
//! both restart, lose connections and want a trunk in any order. `SEED=17` replays one run.
//!
//! A run has two parts. In the first everything goes wrong. In the second nothing new does; what is on its way still
//! arrives, and both must come to one and the same connection and stay there.
//!
//! Other runs are rounds in which nothing is lost and only the instants differ. There no connection that one side has
//! taken may ever be given up: streams may be on it.

use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant},
};

use trunkline_proto::{message::TrunkHello, version::Offer};

use super::{super::*, BACKOFF_MAX, id};

const SEEDS: std::ops::Range<u64> = 0..2000;
/// How long everything goes wrong.
const FAULTS: Duration = Duration::from_secs(12);
/// After the faults, within so long both sides must agree: an idle timeout, an attempt and its HELLO, and some round
/// trips.
const SETTLING: Duration = Duration::from_secs(25);
/// From then on, nothing may change for so long.
const STABLE: Duration = Duration::from_secs(30);
/// A connection whose other end is gone without a word.
const IDLE_TIMEOUT_MS: (u64, u64) = (9_000, 10_000);
/// A dial that hears nothing ends then: while the handshake lasts, or while HELLO does.
const DIAL_TIMEOUT_MS: [u64; 2] = [2_000, 7_000];
/// A superseded connection is closed when its last stream has ended.
const LAST_STREAMS_MS: (u64, u64) = (0, 3_000);
/// How often a program opens a stream in the second part.
const OPENS_EVERY_MS: (u64, u64) = (20, 150);
/// Rounds of a run without losses, how long each lasts, and how far apart both sides begin.
const ROUNDS: u32 = 5;
const ROUND: Duration = Duration::from_secs(5);
const BEGINNINGS_MS: (u64, u64) = (0, 400);
/// Dials of one side in the second part, most of them at the longest pause.
const DIALS_MAX: u64 = 120;

const A: usize = 0;
const B: usize = 1;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// From `low` to `high`, both included.
    fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }

    fn side(&mut self) -> usize {
        usize::from(self.percent(50))
    }

    fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

/// What one end makes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The acceptor has not heard of it.
    Unknown,
    /// The dialler waits for the answer.
    Dialling,
    /// The acceptor has its HELLO and has not answered.
    Unanswered,
    /// It is, or was, the trunk.
    Taken,
    /// Given up, closed, or lost.
    Gone,
}

#[derive(Debug)]
struct Connection {
    dialler: usize,
    hello: TrunkHello,
    ends: [End; 2],
    /// The lives of the two nodes that it belongs to.
    lives: [u64; 2],
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Hello(usize),
    Answer {
        connection: usize,
        boot_id: u64,
        dials_begun: u64,
    },
    /// One end hears, or notices, that the other is gone.
    Closed {
        connection: usize,
        side: usize,
    },
    DialTimeout(usize),
    Tick {
        side: usize,
        life: u64,
    },
    /// The last stream of a superseded connection has ended.
    LastStream {
        connection: usize,
        side: usize,
    },
    /// A program opens a stream, or the last one that waited gives up.
    Want {
        side: usize,
        wanted: bool,
    },
    /// The same, again and again.
    Opens {
        side: usize,
    },
    Restart(usize),
    /// One end of the trunk is lost: the other notices later.
    Break(usize),
    /// A side finds its trunk silent.
    Suspect(usize),
    /// It speaks again.
    Trust(usize),
    /// Whether dials of a side arrive.
    Reach {
        side: usize,
        reaches: bool,
    },
    Calm,
}

struct Node {
    machine: Dialler,
    /// Counts the lives of this node, and is its boot id.
    life: u64,
    dial: Option<usize>,
    reaches: bool,
    dialable: bool,
    dials: u64,
}

impl Node {
    fn machine(side: usize, dialable: bool) -> Dialler {
        let names = ["node-a", "node-b"].map(id);
        Dialler::new(&names[side], &names[1 - side], dialable, BACKOFF_MAX)
    }
}

struct World {
    random: Random,
    start: Instant,
    now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    scheduled: u64,
    nodes: [Node; 2],
    connections: Vec<Connection>,
    /// Everything goes wrong.
    faults: bool,
    /// The slowest packet, in milliseconds.
    delay_ms_max: u64,
    trace: bool,
    lives: u64,
    /// What either side took for the trunk, in order.
    taken: Vec<usize>,
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let start = Instant::now();
        let mut random = Random(seed);
        // A peer may know no address of the other; not both.
        let undialable = random.percent(15).then(|| random.side());
        let node = |side| {
            let dialable = undialable != Some(side);
            Node {
                machine: Node::machine(side, dialable),
                life: 1 + side as u64,
                dial: None,
                reaches: true,
                dialable,
                dials: 0,
            }
        };
        let nodes = [node(A), node(B)];
        let delay_ms_max = [1, 20, 150, 1_500][usize::try_from(random.next() % 4).unwrap_or(0)];
        Self {
            random,
            start,
            now: start,
            events: BTreeMap::new(),
            scheduled: 0,
            nodes,
            connections: Vec::new(),
            faults: true,
            delay_ms_max,
            trace,
            lives: 2,
            taken: Vec::new(),
        }
    }

    fn after_ms(&mut self, milliseconds: u64, event: Event) {
        self.at(self.now + Duration::from_millis(milliseconds), event);
    }

    fn at(&mut self, when: Instant, event: Event) {
        self.scheduled += 1;
        self.events.insert((when.max(self.now), self.scheduled), event);
    }

    fn delay_ms(&mut self) -> u64 {
        // Some programs meet at the very same instant.
        if self.random.percent(10) { 0 } else { self.random.between((1, self.delay_ms_max)) }
    }

    /// In the first part, what is sent may be lost.
    fn is_lost(&mut self) -> bool {
        self.faults && self.random.percent(15)
    }

    fn plan_faults(&mut self) {
        let until = u64::try_from(FAULTS.as_millis()).unwrap_or(0);
        for _ in 0..self.random.between((1, 25)) {
            let when = self.random.between((0, until));
            let side = self.random.side();
            let event = match self.random.next() % 13 {
                10 => Event::Trust(side),
                11 => Event::Suspect(side),
                12 => {
                    self.after_ms(when, Event::Suspect(A));
                    Event::Suspect(B)
                }
                0..=3 => Event::Want { side, wanted: true },
                4 => Event::Want { side, wanted: false },
                5 => Event::Restart(side),
                6 => Event::Break(side),
                7 => Event::Reach { side, reaches: self.random.percent(50) },
                _ => {
                    // Both at the same instant.
                    self.after_ms(when, Event::Want { side: A, wanted: true });
                    Event::Want { side: B, wanted: true }
                }
            };
            self.after_ms(when, event);
        }
        self.after_ms(until, Event::Calm);
    }

    /// From now on: who can dial, and who wants.
    fn calm(&mut self) {
        self.faults = false;
        self.delay_ms_max = self.delay_ms_max.min(200);
        let unreaching = self.random.percent(40).then(|| self.random.side());
        for side in [A, B] {
            // One of them can dial, at least.
            let alone = !self.nodes[1 - side].dialable;
            self.nodes[side].reaches = alone || unreaching != Some(side);
            self.nodes[side].dials = 0;
        }
        let can_dial = |node: &Node| node.reaches && node.dialable;
        let only = self.random.percent(50).then(|| self.random.side());
        for side in [A, B] {
            if only.is_none_or(|only| only == side) || !can_dial(&self.nodes[1 - side]) {
                self.after_ms(0, Event::Opens { side });
            }
        }
    }

    /// Runs until `until` after the start.
    fn run(&mut self, until: Duration) {
        let until = self.start + until;
        while let Some(next) = self.events.first_entry().filter(|next| next.key().0 <= until) {
            let ((when, _), event) = next.remove_entry();
            self.now = when;
            if self.trace {
                println!("{:>8.3} {event:?}", (self.now - self.start).as_secs_f64());
            }
            self.happen(event);
            self.check();
        }
        self.now = until;
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Want { side, wanted } => {
                let wanted = wanted && self.nodes[side].machine.trunk().is_none();
                let actions = self.nodes[side].machine.want(wanted, now);
                self.perform(side, actions);
            }
            Event::Opens { side } => {
                self.happen(Event::Want { side, wanted: true });
                let pause = self.random.between(OPENS_EVERY_MS);
                self.after_ms(pause, event);
            }
            Event::Tick { side, life } => {
                if self.nodes[side].life == life {
                    let actions = self.nodes[side].machine.tick(now);
                    self.perform(side, actions);
                }
            }
            Event::Hello(index) => self.hello_arrives(index),
            Event::Answer { connection, boot_id, dials_begun } => self.answer_arrives(connection, boot_id, dials_begun),
            Event::DialTimeout(index) => {
                let side = self.connections[index].dialler;
                if self.connections[index].ends[side] == End::Dialling {
                    self.leave(index, side);
                    self.fail_dial(index, side);
                }
            }
            Event::Closed { connection, side } => self.hear_close(connection, side),
            Event::LastStream { connection, side } => {
                let superseded = self.nodes[side].machine.trunk() != Some(connection as u64);
                if superseded && self.connections[connection].ends[side] == End::Taken {
                    self.leave(connection, side);
                    self.lose(connection, side);
                }
            }
            Event::Suspect(side) => {
                let actions = self.nodes[side].machine.suspect(now);
                self.perform(side, actions);
            }
            Event::Trust(side) => {
                let actions = self.nodes[side].machine.trust();
                self.perform(side, actions);
            }
            Event::Restart(side) => self.restart(side),
            Event::Break(side) => {
                if let Some(token) = self.nodes[side].machine.trunk() {
                    let index = usize::try_from(token).unwrap_or(0);
                    self.leave(index, side);
                    self.lose(index, side);
                }
            }
            Event::Reach { side, reaches } => self.nodes[side].reaches = reaches,
            Event::Calm => self.calm(),
        }
    }

    fn hello_arrives(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let side = 1 - connection.dialler;
        if connection.ends[side] != End::Unknown || connection.lives[side] != self.nodes[side].life {
            return;
        }
        connection.ends[side] = End::Unanswered;
        let hello = connection.hello.clone();
        let actions = self.nodes[side].machine.incoming(index as u64, hello, self.now);
        self.perform(side, actions);
    }

    fn answer_arrives(&mut self, index: usize, boot_id: u64, dials_begun: u64) {
        let side = self.connections[index].dialler;
        if self.connections[index].ends[side] != End::Dialling {
            return;
        }
        self.connections[index].ends[side] = End::Taken;
        self.nodes[side].dial = None;
        let hello = TrunkHello { dial: 0, dials_begun, boot_id, ..self.connections[index].hello.clone() };
        let actions = self.nodes[side].machine.answered(index as u64, &hello, self.now);
        self.took(index, side);
        self.perform(side, actions);
    }

    fn hear_close(&mut self, index: usize, side: usize) {
        let connection = &mut self.connections[index];
        if connection.lives[side] != self.nodes[side].life {
            return;
        }
        match std::mem::replace(&mut connection.ends[side], End::Gone) {
            End::Unknown | End::Gone => {}
            End::Dialling => self.fail_dial(index, side),
            End::Unanswered | End::Taken => self.lose(index, side),
        }
    }

    fn fail_dial(&mut self, index: usize, side: usize) {
        assert_eq!(self.nodes[side].dial.take(), Some(index));
        let jitter = self.random.fraction();
        let actions = self.nodes[side].machine.failed(self.now, jitter);
        self.perform(side, actions);
    }

    fn lose(&mut self, index: usize, side: usize) {
        let actions = self.nodes[side].machine.lost(index as u64, self.now);
        self.perform(side, actions);
    }

    fn restart(&mut self, side: usize) {
        for index in 0..self.connections.len() {
            self.leave(index, side);
        }
        self.lives += 1;
        let node = &mut self.nodes[side];
        node.life = self.lives;
        node.dial = None;
        node.machine = Node::machine(side, node.dialable);
    }

    /// One end of a connection is given up; the other hears of it soon, or notices late.
    fn leave(&mut self, index: usize, side: usize) {
        let was = std::mem::replace(&mut self.connections[index].ends[side], End::Gone);
        if matches!(was, End::Gone) {
            return;
        }
        let delay = if self.is_lost() { self.random.between(IDLE_TIMEOUT_MS) } else { self.delay_ms() };
        self.after_ms(delay, Event::Closed { connection: index, side: 1 - side });
    }

    fn perform(&mut self, side: usize, actions: Vec<Action>) {
        for action in actions {
            if self.trace {
                println!("         {} {action:?}", ["node-a", "node-b"][side]);
            }
            match action {
                Action::Dial { number } => self.dial(side, number),
                Action::Abandon => {
                    let index = self.nodes[side].dial.take().expect("a dial to abandon");
                    self.leave(index, side);
                }
                Action::Take(token) => {
                    let index = usize::try_from(token).unwrap_or(0);
                    // Its end may have been heard of meanwhile: as in the node, nothing is taken then.
                    if self.connections[index].ends[side] == End::Unanswered {
                        self.answer(index, side);
                    }
                }
                Action::Refuse(token) => {
                    let index = usize::try_from(token).unwrap_or(0);
                    assert_eq!(self.connections[index].ends[side], End::Unanswered);
                    self.leave(index, side);
                }
                Action::TickAt(when) => {
                    let life = self.nodes[side].life;
                    self.at(when, Event::Tick { side, life });
                }
            }
        }
    }

    fn dial(&mut self, side: usize, number: u64) {
        let index = self.connections.len();
        let node = &mut self.nodes[side];
        assert!(node.dialable);
        assert_eq!(node.dial.replace(index), None, "one unfinished dial at a time");
        node.dials += 1;
        assert_eq!(number, node.machine.dials_begun());
        let hello = TrunkHello {
            offer: Offer::ours(),
            software: String::new(),
            boot_id: node.life,
            dial: number,
            dials_begun: number,
        };
        let reaches = node.reaches;
        let mut ends = [End::Unknown; 2];
        ends[side] = End::Dialling;
        let lives = [self.nodes[A].life, self.nodes[B].life];
        self.connections.push(Connection { dialler: side, hello, ends, lives });
        if !reaches && self.random.percent(30) {
            // A name that does not resolve, a port where nobody listens.
            let delay = self.delay_ms();
            self.after_ms(delay, Event::DialTimeout(index));
            return;
        }
        if reaches && !self.is_lost() {
            let (handshake, hello) = (self.delay_ms(), self.delay_ms());
            self.after_ms(handshake + hello, Event::Hello(index));
        }
        let timeout = DIAL_TIMEOUT_MS[self.random.side()];
        self.after_ms(timeout, Event::DialTimeout(index));
    }

    /// The acceptor takes a connection and answers its HELLO.
    fn answer(&mut self, index: usize, side: usize) {
        self.connections[index].ends[side] = End::Taken;
        let node = &self.nodes[side];
        let answer = Event::Answer { connection: index, boot_id: node.life, dials_begun: node.machine.dials_begun() };
        self.took(index, side);
        if !self.is_lost() {
            let delay = self.delay_ms();
            self.after_ms(delay, answer);
        }
    }

    /// A connection is the trunk of `side` now: streams that waited go there, those before it end.
    fn took(&mut self, index: usize, side: usize) {
        self.taken.push(index);
        let other_life = self.connections[index].lives[1 - side];
        for older in 0..self.connections.len() {
            if older == index || self.connections[older].ends[side] != End::Taken {
                continue;
            }
            if self.connections[older].lives[1 - side] == other_life {
                let last = self.random.between(LAST_STREAMS_MS);
                self.after_ms(last, Event::LastStream { connection: older, side });
            } else {
                self.leave(older, side);
            }
        }
        let actions = self.nodes[side].machine.want(false, self.now);
        assert_eq!(actions, []);
    }

    /// What holds at every instant.
    fn check(&self) {
        for (side, node) in self.nodes.iter().enumerate() {
            if let Some(token) = node.machine.trunk() {
                let connection = &self.connections[usize::try_from(token).unwrap_or(0)];
                assert_eq!(connection.ends[side], End::Taken, "node {side} uses {connection:?}");
            }
            if let Some(dial) = node.dial {
                assert_eq!(self.connections[dial].ends[side], End::Dialling);
            }
        }
    }

    /// The one connection that both sides agree on.
    fn agreed(&self) -> usize {
        let [a, b] = [A, B].map(|side| self.nodes[side].machine.trunk());
        assert!(a.is_some() && a == b, "node-a has {a:?}, node-b has {b:?}");
        let live: Vec<_> =
            (0..self.connections.len()).filter(|&index| self.connections[index].ends != [End::Gone; 2]).collect();
        let live: Vec<_> = live
            .into_iter()
            // A dial that was lost on its way, and given up: the acceptor never hears of it.
            .filter(|&index| !self.connections[index].ends.contains(&End::Unknown))
            .collect();
        assert_eq!(live.len(), 1, "{:?}", live.iter().map(|&index| &self.connections[index]).collect::<Vec<_>>());
        live[0]
    }
}

fn simulate(seed: u64, trace: bool) {
    let mut world = World::new(seed, trace);
    world.plan_faults();
    world.run(FAULTS + SETTLING);
    let agreed = world.agreed();
    let dials = [A, B].map(|side| world.nodes[side].dials);
    assert!(dials.iter().all(|&dials| dials <= DIALS_MAX), "dials: {dials:?}");
    world.run(FAULTS + SETTLING + STABLE);
    assert_eq!(world.agreed(), agreed, "the trunk changed without a reason");
    assert_eq!([A, B].map(|side| world.nodes[side].dials), dials, "dialled beside a trunk");

    // And when it is over, nothing is left.
    world.events.clear();
    world.happen(Event::Break(A));
    world.run(FAULTS + SETTLING + STABLE + Duration::from_secs(20));
    for node in &world.nodes {
        assert!(node.machine.is_idle(), "{:?}", node.machine);
    }
}

/// Nothing is lost; both want at about the same time, again and again.
fn simulate_rounds(seed: u64, trace: bool) {
    let mut world = World::new(seed, trace);
    world.faults = false;
    world.delay_ms_max = world.delay_ms_max.min(200);
    for side in [A, B] {
        world.nodes[side].dialable = true;
        world.nodes[side].machine = Node::machine(side, true);
    }
    for round in 1..=ROUNDS {
        if world.random.percent(30) {
            let side = world.random.side();
            world.restart(side);
        }
        let (together, only) = (world.random.percent(50), world.random.percent(20).then(|| world.random.side()));
        for side in [A, B] {
            let when = if together { 0 } else { world.random.between(BEGINNINGS_MS) };
            if only.is_none_or(|only| only == side) {
                world.after_ms(when, Event::Want { side, wanted: true });
            }
        }
        world.taken.clear();
        world.run(ROUND * round - ROUND / 4);
        let agreed = world.agreed();
        assert_eq!(world.taken, [agreed, agreed], "each side takes one connection, once");
        world.happen(Event::Break(A));
        world.run(ROUND * round);
    }
}

/// Runs all seeds, or the one that is asked for.
fn for_every_seed(simulate: fn(u64, bool)) {
    if let Ok(seed) = env::var("SEED") {
        simulate(seed.parse().unwrap(), true);
        return;
    }
    for seed in SEEDS {
        let outcome = std::panic::catch_unwind(|| simulate(seed, false));
        assert!(outcome.is_ok(), "replay with SEED={seed}");
    }
}

#[test]
fn two_machines_agree_on_one_connection_whatever_happened_before() {
    for_every_seed(simulate);
}

#[test]
fn dials_that_cross_end_in_one_connection_that_nobody_gives_up() {
    for_every_seed(simulate_rounds);
}
