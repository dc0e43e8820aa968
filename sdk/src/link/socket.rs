//! The transport over the node's unix socket.

use std::{
    io::{self, IoSlice},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt as _, io::Interest, net::UnixStream};
use trunkline_proto::{
    frame::{DataHeader, Decoder, Frame},
    outgoing::Outgoing,
};

use super::transport::{Came, Failure, Transport};

/// Asked of the kernel at once.
const READ_BYTES: usize = 64 * 1024;
/// Read before it is the turn of writing again.
const READ_TURN_BYTES: usize = 256 * 1024;
/// Cells are asked for output while less than this waits to be written. What waits in the cells instead can still be
/// overtaken by control.
const OUTGOING_BYTES_MAX: usize = 256 * 1024;
/// Answers to what was read are pushed beyond the bound above; with this much waiting, reading stops too.
const OUTGOING_BYTES_WALL: usize = 1024 * 1024;
/// Pieces in one write: what one system call may take on every system is more (`IOV_MAX`).
const WRITE_SLICES: usize = 64;
/// How long a process that has said everything waits for the node to close its side.
const FAREWELL: Duration = Duration::from_secs(1);

/// A greeted connection to the node's local socket.
pub(super) struct Socket {
    stream: UnixStream,
    decoder: Decoder,
    outgoing: Outgoing,
    /// Written since the beginning.
    written_bytes: u64,
    /// Read in this turn.
    turn_bytes: usize,
}

/// Writes once, as much as the kernel takes.
pub(super) fn write_some(stream: &UnixStream, outgoing: &mut Outgoing) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
    let filled = outgoing.io_slices(&mut slices);
    let written = stream.try_write_vectored(&slices[..filled])?;
    outgoing.advance(written);
    Ok(written)
}

impl Socket {
    /// A connection that was greeted; `decoder` holds what came behind the greeting.
    pub(super) fn new(stream: UnixStream, decoder: Decoder) -> Self {
        Self { stream, decoder, outgoing: Outgoing::default(), written_bytes: 0, turn_bytes: 0 }
    }
}

impl Transport for Socket {
    fn next(&mut self) -> Result<Came, Failure> {
        loop {
            if let Some(frame) = self.decoder.next().map_err(|error| Failure::Fatal(error.to_string()))? {
                return Ok(Came::Frame(frame));
            }
            if self.turn_bytes >= READ_TURN_BYTES {
                self.turn_bytes = 0;
                return Ok(Came::TurnOver);
            }
            if self.outgoing.len() >= OUTGOING_BYTES_WALL {
                self.turn_bytes = 0;
                return Ok(Came::Nothing);
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(READ_BYTES);
            match self.stream.try_read_buf(buffer) {
                Ok(0) => return Err(Failure::Lost("the node closed it".to_owned())),
                Ok(count) => self.turn_bytes += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.turn_bytes = 0;
                    return Ok(Came::Nothing);
                }
                Err(error) => return Err(Failure::Lost(error.to_string())),
            }
        }
    }

    fn push(&mut self, frame: Frame) {
        self.outgoing.push(&frame);
    }

    fn push_data(&mut self, header: &DataHeader, pieces: &mut Vec<Bytes>) {
        self.outgoing.push_data(header, pieces);
    }

    fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING_BYTES_MAX
    }

    fn write(&mut self) -> Result<(), Failure> {
        while !self.outgoing.is_empty() {
            match write_some(&self.stream, &mut self.outgoing) {
                Ok(count) => self.written_bytes += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(Failure::Lost(error.to_string())),
            }
        }
        Ok(())
    }

    fn pushed(&self) -> u64 {
        self.written_bytes + self.outgoing.len() as u64
    }

    fn written(&self) -> u64 {
        self.written_bytes
    }

    async fn ready(&self) -> Result<(), Failure> {
        let mut interest = Interest::READABLE;
        if self.outgoing.len() >= OUTGOING_BYTES_WALL {
            interest = Interest::WRITABLE;
        } else if !self.outgoing.is_empty() {
            interest |= Interest::WRITABLE;
        }
        self.stream.ready(interest).await.map(drop).map_err(|error| Failure::Lost(error.to_string()))
    }

    /// The node reads the end of the link after the last frame, and closes its side.
    async fn leave(&mut self, farewell: Option<Instant>) {
        // The node may be gone already: there is nobody left to tell.
        let _ = self.stream.shutdown().await;
        let Some(by) = farewell else { return };
        let closed = async {
            let mut rest = vec![0; READ_BYTES];
            while self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut rest) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        let by = by.min(Instant::now() + FAREWELL);
        // A node that does not close its side has all the same been told everything.
        let _ = tokio::time::timeout_at(by.into(), closed).await;
    }
}
