//! SIGINT and SIGTERM: what is under way ends with a word to the other end, not in the middle of a byte.

use std::{fmt, future::Future};

use tokio::{
    select,
    signal::unix::{self, SignalKind},
};

use crate::failure::Failure;

/// Which signal it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// As shells report a program that the signal ended: 128 and its number.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupted by SIGINT",
            Self::Terminate => "interrupted by SIGTERM",
        })
    }
}

/// Listens for both signals from the moment it is made.
#[derive(Debug)]
pub(crate) struct Interrupt {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Interrupt {
    /// Must be called in a runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let signal = |kind| unix::signal(kind).map_err(Failure::Start);
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next signal.
    pub(crate) async fn received(&mut self) -> Signal {
        select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }

    /// Does the work, unless a signal comes first: then it is dropped.
    pub(crate) async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        select! {
            biased;
            done = work => Ok(done),
            signal = self.received() => Err(Failure::Interrupted(signal)),
        }
    }
}
