//! Which cells have something for the node: how the application's threads tell the link's thread.
//!
//! A cell stands in each list at most once (a flag under its own lock sees to it), so the lists are bounded by the number
//! of streams and binds. Streams that have data are scheduled as those of a trunk are: by their jobs' weights, and within a
//! job in turn, the newly active first.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use tokio::sync::Notify;
use trunkline_session::Schedule;

use super::{BindCell, Ended, ReceiveCell, SendCell, lock};

/// A thing that two threads share: the application's acts on it, the link's carries it out.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Send(Arc<SendCell>),
    Receive(Arc<ReceiveCell>),
    Bind(Arc<BindCell>),
}

/// What the link's thread does next.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Open, Accept, Credit, Want, Abort, Bind, Unbind: ahead of all data.
    Control(Cell),
    /// One DATA frame of at most so many bytes. What it took is told to the next [`Ready::next`].
    Data(Arc<SendCell>, usize),
}

/// How a [`Turn::Data`] went.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) cell: Arc<SendCell>,
    /// What it took.
    pub(crate) bytes: usize,
    /// It has more. Who says this has left the cell's flag set.
    pub(crate) more: bool,
}

/// The lists of cells that have something to say.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    lists: Mutex<Lists>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Lists {
    control: VecDeque<Cell>,
    data: Schedule<u64, Arc<SendCell>>,
    /// Set when the attachment is being closed or the link is lost: nothing new begins.
    ended: Option<Ended>,
    /// Nobody reads the lists any more.
    shut: bool,
    /// The link's thread is to end by then.
    close_by: Option<Instant>,
    /// Somebody waits until the node has closed its side too.
    farewell: bool,
    /// The last handle is gone: an embedded node is to be gone by then too.
    #[cfg(feature = "embedded")]
    hurry_by: Option<Instant>,
}

impl Ready {
    /// Takes a new cell, unless the attachment has ended.
    pub(crate) fn admit(&self, cell: Cell) -> Result<(), Ended> {
        let mut lists = self.lock();
        if let Some(ended) = &lists.ended {
            return Err(ended.clone());
        }
        lists.control.push_back(cell);
        drop(lists);
        self.wake.notify_one();
        Ok(())
    }

    /// A cell has something to say that is not data. Who calls this has set the cell's flag.
    pub(crate) fn control(&self, cell: Cell) {
        self.push(|lists| lists.control.push_back(cell));
    }

    /// A stream has come to have data. Who calls this has set the cell's flag.
    pub(crate) fn data(&self, cell: &Arc<SendCell>) {
        self.push(|lists| lists.data.activate(&cell.stream.share(), cell.stream.weight, Arc::clone(cell)));
    }

    fn push(&self, act: impl FnOnce(&mut Lists)) {
        let mut lists = self.lock();
        if lists.shut {
            return;
        }
        act(&mut lists);
        drop(lists);
        // A syscall only when the link's thread sleeps.
        self.wake.notify_one();
    }

    /// Has the link's thread look around.
    pub(crate) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// What to do next: control first, then the streams whose turn it is. Told how the last turn went, it takes one lock
    /// for a turn.
    pub(crate) fn next(&self, served: Option<Served>) -> Option<Turn> {
        let mut lists = self.lock();
        let unheard = lists.serve(served);
        let turn = match lists.control.pop_front() {
            Some(cell) => Some(Turn::Control(cell)),
            None => lists.data.next_turn().map(|turn| Turn::Data(turn.item, turn.quantum)),
        };
        drop(lists);
        drop(unheard);
        turn
    }

    /// There is no room for another turn.
    pub(crate) fn pause(&self, served: Option<Served>) {
        let unheard = self.lock().serve(served);
        drop(unheard);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Resolves once something was pushed, or closing began, since the last time.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// From now on nothing new begins, and the link's thread ends by `by` at the latest. With `farewell` it waits for the
    /// node to close its side as well.
    pub(crate) fn begin_close(&self, by: Instant, farewell: bool) {
        let mut lists = self.lock();
        lists.farewell |= farewell;
        lists.ended.get_or_insert(Ended::Closed);
        lists.close_by = Some(lists.close_by.map_or(by, |before| before.min(by)));
        drop(lists);
        self.wake.notify_one();
    }

    /// From now on an embedded node lets nothing take longer than until then.
    #[cfg(feature = "embedded")]
    pub(crate) fn hurry(&self, by: Instant) {
        self.lock().hurry_by = Some(by);
        self.wake.notify_one();
    }

    /// Resolves when an embedded node is to be gone, with the reason. Only for when nobody waits for [`Ready::woken`] any
    /// more.
    #[cfg(feature = "embedded")]
    pub(super) async fn hurried(&self) -> &'static str {
        loop {
            let by = self.lock().hurry_by;
            match by {
                Some(by) => {
                    tokio::time::sleep_until(by.into()).await;
                    return "the last handle was dropped";
                }
                None => self.woken().await,
            }
        }
    }

    /// When the link's thread is to end, once closing began.
    pub(crate) fn close_by(&self) -> Option<Instant> {
        self.lock().close_by
    }

    pub(crate) fn is_farewell_wanted(&self) -> bool {
        self.lock().farewell
    }

    /// How the attachment ended, if it did.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.lock().ended.clone()
    }

    /// Empties the lists and returns every cell that stood in them.
    pub(crate) fn take_all(&self) -> Vec<Cell> {
        let mut lists = self.lock();
        let mut cells: Vec<Cell> = lists.control.drain(..).collect();
        while let Some(turn) = lists.data.next_turn() {
            cells.push(Cell::Send(turn.item));
        }
        cells
    }

    /// From now on whatever is pushed is dropped. A loss outranks a close under which it happened: whoever closed is to
    /// hear of it.
    pub(crate) fn shut(&self, ended: Ended) {
        let mut lists = self.lock();
        match (&lists.ended, &ended) {
            (None, _) | (Some(Ended::Closed), Ended::NodeLost(_)) => lists.ended = Some(ended),
            (Some(_), _) => {}
        }
        lists.shut = true;
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        lock(&self.lists)
    }
}

impl Lists {
    fn is_empty(&self) -> bool {
        self.control.is_empty() && self.data.is_empty()
    }

    /// Books a turn. Returns a cell that leaves the lists, to be dropped under no lock: it may be the last of it.
    fn serve(&mut self, served: Option<Served>) -> Option<Arc<SendCell>> {
        let Served { cell, bytes, more } = served?;
        let share = cell.stream.share();
        self.data.served(&share, bytes);
        if !more || self.shut {
            return Some(cell);
        }
        self.data.requeue(&share, cell.stream.weight, cell);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_loss_outranks_the_close_under_which_it_happens_and_no_later_word_does() {
        let ready = Ready::default();
        ready.begin_close(Instant::now(), true);
        assert!(matches!(ready.ended(), Some(Ended::Closed)));
        ready.shut(Ended::NodeLost("gone".into()));
        ready.shut(Ended::Closed);
        ready.shut(Ended::NodeLost("again".into()));
        assert!(matches!(ready.ended(), Some(Ended::NodeLost(why)) if &*why == "gone"));
    }
}
