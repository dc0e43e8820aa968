//! A network between daemons that a test can watch and break: every datagram from one node to another passes through
//! a socket of ours.
//!
//! ```text
//!  node-a ──► socket that node-a has as node-b's address ─┐
//!                                                         ├─ both ways, from the one to the other's address
//!  node-b ──► socket that node-b has as node-a's address ─┘
//! ```
//!
//! So each node sees the other at the address that it was told, whoever dials.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket as StdSocket},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::payload::Random;

/// What a delay or a gate holds of one direction. A network drops what is more.
const HELD_MAX: usize = 8192;
/// The largest UDP payload.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Paths between all nodes of a cluster. Dropped, they are gone.
#[derive(Debug, Default)]
pub struct Network {
    directions: Mutex<BTreeMap<(String, String), Arc<Direction>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Network {
    /// The address at which `from` is to dial `to`, which listens at `real`: for
    /// [`crate::cluster::ClusterBuilder::peer_address`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, or when there is no free port.
    pub fn address(&self, from: &str, to: &str, real: SocketAddr) -> String {
        let key = (from.to_owned(), to.to_owned());
        if !lock(&self.directions).contains_key(&key) {
            self.connect(from, to);
        }
        let direction = Arc::clone(&lock(&self.directions)[&key]);
        lock(&direction.state).target = Some(real);
        direction.receives.local_addr().expect("a bound socket has an address").to_string()
    }

    /// What goes from one node to another.
    ///
    /// # Panics
    /// When the cluster has no such two nodes.
    #[must_use]
    pub fn direction(&self, from: &str, to: &str) -> Arc<Direction> {
        let found = lock(&self.directions).get(&(from.to_owned(), to.to_owned())).cloned();
        found.unwrap_or_else(|| panic!("no path from {from} to {to}"))
    }

    /// Both directions between two nodes.
    #[must_use]
    pub fn between(&self, a: &str, b: &str) -> [Arc<Direction>; 2] {
        [self.direction(a, b), self.direction(b, a)]
    }

    fn connect(&self, a: &str, b: &str) {
        let [of_a, of_b] = [(); 2].map(|()| Arc::new(socket().expect("a free port")));
        let ways = [(a, b, &of_a, &of_b), (b, a, &of_b, &of_a)];
        for (from, to, receives, sends) in ways {
            let (delayed, late) = mpsc::channel(HELD_MAX);
            let direction = Arc::new(Direction {
                receives: Arc::clone(receives),
                sends: Arc::clone(sends),
                state: Mutex::default(),
                delayed,
            });
            lock(&self.directions).insert((from.to_owned(), to.to_owned()), Arc::clone(&direction));
            let mut tasks = lock(&self.tasks);
            tasks.spawn(deliver_late(Arc::clone(&direction), late));
            tasks.spawn(async move { direction.run().await });
        }
        let [there, back] = self.between(a, b);
        lock(&there.state).answers = Some(Arc::clone(&lock(&back.state).connection_ids));
        lock(&back.state).answers = Some(Arc::clone(&lock(&there.state).connection_ids));
    }
}

fn socket() -> io::Result<UdpSocket> {
    let socket = StdSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().expect("no one panicked here")
}

/// Datagrams from one node to another.
#[derive(Debug)]
pub struct Direction {
    /// Where the one node sends to.
    receives: Arc<UdpSocket>,
    /// Where the other node believes the one to be.
    sends: Arc<UdpSocket>,
    state: Mutex<State>,
    delayed: mpsc::Sender<(Instant, Vec<u8>)>,
}

/// A connection id, as it stands in a packet.
type ConnectionId = Vec<u8>;

#[derive(Debug, Default)]
struct State {
    /// The node that all this is for.
    target: Option<SocketAddr>,
    dark: bool,
    swallow: usize,
    lose_percent: usize,
    bytes_per_s: Option<u64>,
    /// When the last datagram will have left a line of that rate.
    line_free_at: Option<Instant>,
    random: Option<Random>,
    delay: Duration,
    gate: Option<Vec<Vec<u8>>>,
    seen: Seen,
    /// Source ids of long headers that came this way.
    connection_ids: Arc<Mutex<BTreeSet<ConnectionId>>>,
    /// The same of the other direction.
    answers: Option<Arc<Mutex<BTreeSet<ConnectionId>>>>,
}

/// What a direction has been seen to carry.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Datagrams that came in, those that were not passed on included.
    pub datagrams: u64,
    /// Where they came from.
    pub sources: BTreeSet<SocketAddr>,
    /// Handshakes that the sender began, each counted once however often its first packet was sent: by the connection
    /// id that it chose.
    pub dials: BTreeSet<ConnectionId>,
    /// Connections on which it sent 1-RTT packets, by the receiver's connection id.
    pub connections: BTreeSet<ConnectionId>,
}

impl Direction {
    /// What has been seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        lock(&self.state).seen.clone()
    }

    /// Forgets which connections carried data, to see which carry some from now on.
    pub fn forget_connections(&self) {
        lock(&self.state).seen.connections.clear();
    }

    /// Drops everything, or does so no longer.
    pub fn dark(&self, dark: bool) {
        lock(&self.state).dark = dark;
    }

    /// Drops the next `datagrams`.
    pub fn swallow(&self, datagrams: usize) {
        lock(&self.state).swallow = datagrams;
    }

    /// Drops so many of a hundred, those that the seed says.
    pub fn lose(&self, percent: usize, seed: u64) {
        let mut state = lock(&self.state);
        state.lose_percent = percent;
        state.random = Some(Random::new(seed, percent as u64));
    }

    /// Delivers everything so much later.
    pub fn delay(&self, delay: Duration) {
        lock(&self.state).delay = delay;
    }

    /// Delivers no more than so many bytes in a second, in order, as a slow line does: what comes faster waits.
    pub fn limit_rate(&self, bytes_per_s: u64) {
        lock(&self.state).bytes_per_s = Some(bytes_per_s);
    }

    /// Keeps everything until [`Direction::release`].
    pub fn hold(&self) {
        lock(&self.state).gate = Some(Vec::new());
    }

    /// How many datagrams are kept.
    #[must_use]
    pub fn held(&self) -> usize {
        lock(&self.state).gate.as_ref().map_or(0, Vec::len)
    }

    /// Delivers what was kept, and everything that comes.
    pub fn release(&self) {
        let held = lock(&self.state).gate.take();
        for datagram in held.into_iter().flatten() {
            self.pass(datagram);
        }
    }

    async fn run(&self) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            // A node that is down answers with ICMP; it may come up.
            let Ok((length, source)) = self.receives.recv_from(&mut buffer).await else { continue };
            let datagram = &buffer[..length];
            let passes = {
                let mut state = lock(&self.state);
                state.see(datagram, source);
                state.passes()
            };
            if passes && !self.keep(datagram) {
                self.pass(datagram.to_vec());
            }
        }
    }

    /// Whether the gate is closed and has taken it.
    fn keep(&self, datagram: &[u8]) -> bool {
        let mut state = lock(&self.state);
        let Some(held) = state.gate.as_mut() else { return false };
        if held.len() < HELD_MAX {
            held.push(datagram.to_vec());
        }
        true
    }

    fn pass(&self, datagram: Vec<u8>) {
        let due = lock(&self.state).due(datagram.len());
        match due {
            None => self.send(&datagram),
            // A full queue drops, as a network does.
            Some(due) => drop(self.delayed.try_send((due, datagram))),
        }
    }

    fn send(&self, datagram: &[u8]) {
        let target = lock(&self.state).target;
        if let Some(target) = target {
            // A full socket drops, as a network does.
            let _ = self.sends.try_send_to(datagram, target);
        }
    }
}

async fn deliver_late(direction: Arc<Direction>, mut late: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((when, datagram)) = late.recv().await {
        sleep_until(when).await;
        direction.send(&datagram);
    }
}

impl State {
    /// When a datagram of this length, which is here now, is to be delivered; at once if `None`.
    fn due(&mut self, length: usize) -> Option<Instant> {
        if self.delay.is_zero() && self.bytes_per_s.is_none() {
            return None;
        }
        let now = Instant::now();
        let mut leaves = now;
        if let Some(rate) = self.bytes_per_s {
            let begins = self.line_free_at.map_or(now, |free| free.max(now));
            leaves = begins + Duration::from_nanos(length as u64 * 1_000_000_000 / rate);
            self.line_free_at = Some(leaves);
        }
        Some(leaves + self.delay)
    }

    fn passes(&mut self) -> bool {
        if self.swallow > 0 {
            self.swallow -= 1;
            return false;
        }
        let lost = self.random.as_mut().is_some_and(|random| random.below(100) < self.lose_percent);
        !self.dark && !lost
    }

    fn see(&mut self, datagram: &[u8], source: SocketAddr) {
        self.seen.datagrams += 1;
        self.seen.sources.insert(source);
        for packet in packets(datagram) {
            match packet {
                Packet::Initial { to, from } => {
                    let answers = self.answers.as_ref().is_some_and(|answers| lock(answers).contains(to));
                    if !answers {
                        self.seen.dials.insert(from.to_vec());
                    }
                    lock(&self.connection_ids).insert(from.to_vec());
                }
                Packet::Long { from } => {
                    lock(&self.connection_ids).insert(from.to_vec());
                }
                Packet::OneRtt { to } => {
                    self.seen.connections.insert(to.to_vec());
                }
            }
        }
    }
}

/// What can be read of a QUIC packet without its keys (RFC 9000 §17).
#[derive(Debug, PartialEq, Eq)]
enum Packet<'a> {
    Initial { to: &'a [u8], from: &'a [u8] },
    Long { from: &'a [u8] },
    OneRtt { to: &'a [u8] },
}

/// A node's connection ids all have this length (quinn's hashed ones), which short headers do not say.
const CONNECTION_ID_BYTES: usize = 8;
const LONG_HEADER: u8 = 0x80;

/// The packets of a datagram, as far as they can be told apart.
fn packets(datagram: &[u8]) -> Vec<Packet<'_>> {
    let mut rest = Reader(datagram);
    std::iter::from_fn(|| packet(&mut rest)).collect()
}

fn packet<'a>(rest: &mut Reader<'a>) -> Option<Packet<'a>> {
    // The "fixed" bit is anything between two sides that grease it (RFC 9287), as quinn does.
    let first = rest.byte()?;
    if first & LONG_HEADER == 0 {
        let to = rest.take(CONNECTION_ID_BYTES)?;
        *rest = Reader(&[]);
        return Some(Packet::OneRtt { to });
    }
    if rest.take(4)? != [0, 0, 0, 1] {
        return None;
    }
    let length = rest.byte()?;
    let to = rest.take(length.into())?;
    let length = rest.byte()?;
    let from = rest.take(length.into())?;
    let packet = match first >> 4 & 3 {
        0 => {
            let token = rest.integer()?;
            rest.take(token)?;
            Packet::Initial { to, from }
        }
        // A Retry is a whole datagram.
        3 => return Some(Packet::Long { from }),
        _ => Packet::Long { from },
    };
    let length = rest.integer()?;
    rest.take(length)?;
    Some(packet)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    /// A variable-length integer (RFC 9000 §16).
    fn integer(&mut self) -> Option<usize> {
        let first = self.byte()?;
        let more = self.take((1 << (first >> 6)) - 1)?;
        let value = more.iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_line_sends_one_datagram_after_another() {
        let mut state = State { bytes_per_s: Some(1_000), ..State::default() };
        let (first, second) = (state.due(500).unwrap(), state.due(250).unwrap());
        assert_eq!(second - first, Duration::from_millis(250));
        assert!(State::default().due(500).is_none());
    }

    #[test]
    fn coalesced_packets_are_told_apart() {
        let initial = [0xc0, 0, 0, 0, 1, 2, 7, 7, 1, 9, 1, 0xaa, 0x40, 3, 0, 0, 0];
        let handshake = [0xe0, 0, 0, 0, 1, 2, 7, 7, 1, 8, 1, 0];
        let short = [0x40, 1, 2, 3, 4, 5, 6, 7, 8, 99, 99];
        let datagram = [&initial[..], &handshake, &short].concat();
        let expected = [
            Packet::Initial { to: &[7, 7], from: &[9] },
            Packet::Long { from: &[8] },
            Packet::OneRtt { to: &[1, 2, 3, 4, 5, 6, 7, 8] },
        ];
        assert_eq!(packets(&datagram), expected);
    }

    #[test]
    fn what_is_cut_off_ends_the_reading() {
        let initial = [0xc0, 0, 0, 0, 1, 2, 7, 7, 1, 9, 1, 0xaa, 0x40, 3, 0, 0, 0];
        for length in 0..initial.len() {
            assert_eq!(packets(&initial[..length]), [], "{length}");
        }
        assert_eq!(packets(&[0x80; 40]), [], "not QUIC");
    }
}
