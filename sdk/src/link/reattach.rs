//! What becomes of a link's streams when a path is lost: theirs, or the link itself (docs/adr/0012).
//!
//! A stream whose path is lost asks for another at once. When the link is lost, all do, once it is there again: until then the
//! thread connects anew, and the application notices nothing but a pause.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use hashbrown::HashMap;
use trunkline_proto::{
    code::Code,
    id::NodeId,
    message::{Abort, Bind},
};
use trunkline_session::Verdict;

use super::{
    BindCell, Ended, ReceiveCell, SendCell,
    thread::{Flush, Link, Receiving, Told},
    transport::{Failure, Transport},
};
use crate::{error::Error, event::Event};

/// What is to be looked at when its time has come.
pub(super) enum Due {
    /// A stream from this process: whether its patience is over.
    WatchSend(Arc<SendCell>),
    /// A stream to this process: the same.
    WatchReceive(Arc<ReceiveCell>, Arc<BindCell>),
    /// A stream from this process, which was not taken up again: it asks once more.
    Retry(Arc<SendCell>),
    /// A consumer, which was not bound again: the same.
    Rebind(Arc<BindCell>),
}

/// Paths that were lost and found since those who listen were told.
#[derive(Debug, Default)]
pub(super) struct Paths {
    lost: u64,
    found: u64,
    why: Option<Arc<str>>,
}

/// A link to the node that was made again.
pub(super) struct Attached<T> {
    pub(super) transport: T,
    pub(super) node: NodeId,
    pub(super) cluster: String,
}

impl<T: Transport> Link<T> {
    /// Serves the link until it is closed or lost for good: whenever it is lost, `connect` makes another, and fails when it is
    /// not to be tried any more. Returns whether everything was said.
    pub(super) async fn run_on(mut self, mut connect: impl AsyncFnMut() -> Result<Attached<T>, Error>) -> bool {
        loop {
            let why = match self.serve().await {
                Ok(clean) => return clean,
                Err(Failure::Fatal(why)) => return self.fail(&why),
                Err(Failure::Lost(why)) => why,
            };
            if self.shared.patience.longest().is_zero() {
                return self.fail(&why);
            }
            self.lose(&why);
            match self.await_node(&mut connect).await {
                Some(Ok(attached)) if attached.node == self.node => self.begin_again(attached),
                Some(Ok(attached)) => return self.fail(&format!("{why}; then {} answered there", attached.node)),
                Some(Err(error)) => return self.fail(&format!("{why}; {error}")),
                None => {
                    let clean = !self.has_unsaid();
                    self.shared.ready.shut(Ended::Closed);
                    self.end(&Ended::Closed);
                    return clean;
                }
            }
        }
    }

    /// Waits until the node is there again. `None` when the attachment is being closed, and has no more time for it: until then
    /// it is worth while, for the node can be told how streams have ended of which their producers have not heard.
    async fn await_node(
        &mut self,
        connect: &mut impl AsyncFnMut() -> Result<Attached<T>, Error>,
    ) -> Option<Result<Attached<T>, Error>> {
        let mut connecting = std::pin::pin!(connect());
        loop {
            tokio::select! {
                biased;
                attached = &mut connecting => return Some(attached),
                () = self.shared.ready.woken() => self.close_by = self.shared.ready.close_by(),
                () = self.timer() => {}
            }
            if self.close_by.is_some_and(|by| !self.has_unsaid() || Instant::now() >= by) {
                return None;
            }
            self.keep_time();
        }
    }

    /// Whether a stream has something left for its other end.
    fn has_unsaid(&self) -> bool {
        let is_unsaid = |receiving: &Receiving| !receiving.cell.is_settled();
        self.known.values().any(is_unsaid) || self.suspended.values().any(|cell| !cell.is_settled())
    }

    /// The link is lost: nothing has a path any more.
    fn lose(&mut self, why: &str) {
        tracing::warn!(node = %self.name, %why, "the link to the node is lost; it is tried again");
        let why: Arc<str> = format!("the link to {} is lost: {why}", self.name).into();
        self.shared.draining.store(false, Ordering::Relaxed);
        self.shared.subscribers.interrupt(&why);
        self.receivers.clear();
        for cell in std::mem::take(&mut self.senders).into_values() {
            self.suspend_sender(&cell, Code::NodeLost, &why);
        }
        let known: Vec<_> = self.known.values().cloned().collect();
        for receiving in known {
            self.suspend_receiver(&receiving, Code::NodeLost, &why);
        }
        // What was pushed and not written is gone with the link: streams say it again, and a node forgets a bind by itself.
        let flushing = std::mem::take(&mut self.flushing);
        let binds = flushing.into_iter().filter(|flush| matches!(flush.told, Told::Bind(_)));
        self.flushing = binds.map(|flush| Flush { position: 0, ..flush }).collect();
        self.tell_paths();
    }

    /// The node is there again: what has no path asks for one.
    fn begin_again(&mut self, attached: Attached<T>) {
        let Attached { transport, node, cluster } = attached;
        tracing::info!(%node, "attached again");
        self.transport = transport;
        // Closing begins anew: the node is another.
        self.close_by = None;
        (self.next_stream, self.next_bind) = (2, 1);
        self.shared.subscribers.attach(&node, &cluster);
        self.shared.counters.reattached.increment();
        let mut awaited: HashMap<usize, (Arc<BindCell>, BTreeSet<NodeId>)> = HashMap::new();
        for Receiving { cell, bind } in self.known.values() {
            let entry = awaited.entry(Arc::as_ptr(bind) as usize);
            let (_, nodes) = entry.or_insert_with(|| (Arc::clone(bind), BTreeSet::new()));
            nodes.insert(cell.producer.node.clone());
        }
        for bind in std::mem::take(&mut self.binds).into_values() {
            let nodes = awaited.remove(&(Arc::as_ptr(&bind) as usize)).map_or_else(BTreeSet::new, |(_, nodes)| nodes);
            bind.bind_again(&self.shared, nodes.into_iter().collect());
        }
        // Of those that are bound no more, streams go on all the same.
        for (bind, nodes) in awaited.into_values() {
            let frame = Bind {
                bind: self.next_bind,
                job: bind.job.clone(),
                consumer: bind.address.consumer.clone(),
                incarnation: bind.incarnation,
                resumes_only: true,
                awaited_nodes: nodes.into_iter().collect(),
            };
            self.next_bind += 1;
            self.transport.push(frame.into());
        }
        for cell in self.suspended.values() {
            cell.retry(&self.shared);
        }
    }
}

impl<T: Transport> Link<T> {
    /// A stream from this process has lost its path, and is in no table of those that have one.
    pub(super) fn suspend_sender(&mut self, cell: &Arc<SendCell>, code: Code, why: &Arc<str>) {
        let watch = cell.suspend(&self.shared, code, why);
        self.note_suspended(cell, watch, why);
    }

    fn note_suspended(&mut self, cell: &Arc<SendCell>, watch: bool, why: &Arc<str>) {
        if cell.is_settled_under().1 {
            return self.tell_lost_sent(cell);
        }
        if self.suspended.insert(Arc::as_ptr(cell) as usize, Arc::clone(cell)).is_none() {
            self.paths.lost += 1;
            self.paths.why = Some(Arc::clone(why));
        }
        if watch {
            self.watch(Due::WatchSend(Arc::clone(cell)), Instant::now());
        }
    }

    /// A stream to this process has lost its path.
    pub(super) fn suspend_receiver(&mut self, receiving: &Receiving, code: Code, why: &Arc<str>) {
        let Receiving { cell, bind } = receiving;
        let was_suspended = cell.is_suspended();
        let watch = cell.suspend(&self.shared, code, why);
        if cell.is_settled() {
            return self.forget_if_settled(receiving);
        }
        if !was_suspended {
            self.paths.lost += 1;
            self.paths.why = Some(Arc::clone(why));
        }
        if self.close_by.is_some()
            && let Some(consumed) = cell.epitaph(&bind.job, &bind.address.consumer)
        {
            // This process will not be asked any more.
            self.transport.push(consumed.into());
        }
        if watch {
            self.watch(Due::WatchReceive(Arc::clone(cell), Arc::clone(bind)), Instant::now());
        }
    }

    /// What the node said of a stream from this process, which has left the table: it has ended, or it asks for another path.
    pub(super) fn aborted_sender(&mut self, cell: &Arc<SendCell>, abort: Abort) {
        let Abort { stream, code, offset, text } = abort;
        let why: Arc<str> = text.as_str().into();
        match cell.handle_abort(&self.shared, code, offset, text) {
            (Verdict::Ended, _) => {
                self.tell_lost_sent(cell);
                if !cell.is_settled_under().1 {
                    // It has a word left: that it has heard.
                    self.senders.insert(stream, Arc::clone(cell));
                }
            }
            (Verdict::PathLost, watch) => self.note_suspended(cell, watch, &why),
            (Verdict::Refused, watch) => {
                self.note_suspended(cell, watch, &why);
                let at = Instant::now() + cell.pause();
                self.watch(Due::Retry(Arc::clone(cell)), at);
            }
        }
    }

    /// A stream has a path again.
    pub(super) fn note_resumed(&mut self) {
        self.paths.found += 1;
        self.shared.counters.streams_resumed.increment();
    }

    /// Tells those who listen of paths lost and found.
    pub(super) fn tell_paths(&mut self) {
        let Paths { lost, found, why } = std::mem::take(&mut self.paths);
        self.shared.counters.streams_suspended.add(lost);
        if let Some(why) = why.filter(|_| lost > 0) {
            self.shared.subscribers.publish(|| Event::Suspended { streams: lost, why: why.to_string() });
        }
        if found > 0 {
            self.shared.subscribers.publish(|| Event::Resumed { streams: found });
        }
    }

    pub(super) fn watch(&mut self, due: Due, at: Instant) {
        self.due.insert((at, self.next_due), due);
        self.next_due += 1;
    }
}

impl<T: Transport> Link<T> {
    /// Looks at what the time has come for.
    pub(super) fn look_at_due(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Due::WatchSend(cell) => {
                    let (stream, _) = cell.is_settled_under();
                    match cell.watch(&self.shared, now) {
                        Some(until) => self.watch(Due::WatchSend(cell), until),
                        None if cell.is_settled_under().1 => self.abandon(stream, &cell),
                        None => {}
                    }
                }
                Due::WatchReceive(cell, bind) => match cell.watch(&self.shared, &bind.job, now) {
                    Some(until) => self.watch(Due::WatchReceive(cell, bind), until),
                    None => {
                        let receiving = Receiving { cell, bind };
                        if receiving.cell.is_settled() {
                            self.tell_lost_received(&receiving);
                            self.forget_if_settled(&receiving);
                        }
                    }
                },
                Due::Retry(cell) => cell.retry(&self.shared),
                Due::Rebind(bind) => bind.bind_again(&self.shared, Vec::new()),
            }
        }
    }

    /// A stream from this process has waited long enough for a path: it asks for none any more.
    fn abandon(&mut self, stream: u64, cell: &Arc<SendCell>) {
        self.suspended.remove(&(Arc::as_ptr(cell) as usize));
        // On another link, its id may be another's.
        if self.senders.get(&stream).is_some_and(|holder| Arc::ptr_eq(holder, cell)) {
            self.senders.remove(&stream);
            let text = "its patience is over".to_owned();
            self.transport.push(Abort { stream, code: Code::Cancelled, offset: 0, text }.into());
        }
        self.tell_lost_sent(cell);
    }

    /// A consumer was not bound again. If that may get better, it is tried once more.
    pub(super) fn refused_bind(&mut self, cell: &Arc<BindCell>, code: Code) -> bool {
        let again = code.is_retryable() && cell.may_bind_again(self.shared.patience.of(&cell.job.name));
        if again {
            let at = Instant::now() + cell.pause();
            self.watch(Due::Rebind(Arc::clone(cell)), at);
        }
        again
    }
}
