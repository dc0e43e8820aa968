//! Writes the output on a thread of its own, so that a full pipe or a slow disk never keeps the program from its signals.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::AsFd as _,
    sync::Arc,
    thread,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::failure::Failure;

/// Short messages are written together up to this size; longer ones are not copied.
const WRITE_BYTES: usize = 64 * 1024;

/// Batches that wait to be written. Each stream has one at most on its way, so that it is more than one only when there
/// are several.
const BATCHES_MAX: usize = 4;

/// Why nothing more can be written.
pub(crate) type WriteError = Arc<io::Error>;

/// The way to the thread. Cheap to clone; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    batches: mpsc::Sender<Batch>,
}

#[derive(Debug)]
struct Batch {
    messages: Vec<Bytes>,
    /// The emptied vector goes back, to be filled again.
    written: oneshot::Sender<Result<Vec<Bytes>, WriteError>>,
}

impl Writer {
    /// Writes to standard output; with `lines`, a newline after each message.
    pub(crate) fn start(lines: bool) -> Result<Self, Failure> {
        // Not `io::Stdout`, which looks for newlines in what it is given.
        let out: File = io::stdout().as_fd().try_clone_to_owned().map_err(Failure::output)?.into();
        let (batches, given) = mpsc::channel(BATCHES_MAX);
        let write = move || serve(given, out, lines);
        thread::Builder::new().name("trunkline-output".to_owned()).spawn(write).map_err(Failure::Start)?;
        Ok(Self { batches })
    }

    /// Writes the messages, and returns when the operating system has them; the vector is empty then.
    ///
    /// # Errors
    /// What the first write that failed said. How much of the messages was written is unknown.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the messages to be written, or not.
    pub(crate) async fn write(&self, messages: &mut Vec<Bytes>) -> Result<(), WriteError> {
        let gone = |_| Arc::new(io::Error::other("the thread that writes has ended"));
        let (written, done) = oneshot::channel();
        let batch = Batch { messages: std::mem::take(messages), written };
        self.batches.send(batch).await.map_err(|_| gone(()))?;
        *messages = done.await.map_err(|_| gone(()))??;
        Ok(())
    }
}

/// Until nobody sends any more. After an error nothing more is written, and everybody is told the error.
fn serve(mut batches: mpsc::Receiver<Batch>, out: impl Write, lines: bool) {
    let mut out = BufWriter::with_capacity(WRITE_BYTES, out);
    let mut failed: Option<WriteError> = None;
    while let Some(Batch { mut messages, written }) = batches.blocking_recv() {
        if failed.is_none() {
            failed = write(&mut out, &messages, lines).err().map(Arc::new);
        }
        messages.clear();
        // Nobody waits for it when the stream was given up meanwhile.
        let _ = written.send(failed.clone().map_or(Ok(messages), Err));
    }
    // What was written was flushed; what could not be must not be tried again.
    let _ = out.into_parts();
}

fn write(out: &mut impl Write, messages: &[Bytes], lines: bool) -> io::Result<()> {
    for message in messages {
        out.write_all(message)?;
        if lines {
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes so many bytes, then is full.
    #[derive(Clone)]
    struct Disk {
        holds: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut holds = self.holds.lock().unwrap();
            let taken = bytes.len().min(self.room - holds.len());
            holds.extend_from_slice(&bytes[..taken]);
            if taken == 0 && !bytes.is_empty() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is on the disk after these batches, and how each of them fared.
    async fn written(room: usize, lines: bool, batches: &[&[&'static str]]) -> (String, Vec<bool>) {
        let disk = Disk { holds: Arc::default(), room };
        let (give, given) = mpsc::channel(BATCHES_MAX);
        let thread = thread::spawn({
            let disk = disk.clone();
            move || serve(given, disk, lines)
        });
        let writer = Writer { batches: give };
        let mut fared = Vec::new();
        for batch in batches {
            let mut messages = batch.iter().map(|&text| Bytes::from_static(text.as_bytes())).collect();
            fared.push(writer.write(&mut messages).await.is_ok());
            assert!(messages.is_empty());
        }
        drop(writer);
        thread.join().unwrap();
        let holds = disk.holds.lock().unwrap().clone();
        (String::from_utf8(holds).unwrap(), fared)
    }

    #[tokio::test]
    async fn messages_are_written_one_after_another_and_lines_end_with_a_newline() {
        let batches: [&[&str]; 3] = [&["a", "bc"], &[], &["", "d"]];
        assert_eq!(written(99, false, &batches).await, ("abcd".to_owned(), vec![true; 3]));
        assert_eq!(written(99, true, &batches).await, ("a\nbc\n\nd\n".to_owned(), vec![true; 3]));
    }

    #[tokio::test]
    async fn after_an_error_nothing_is_written_and_everybody_is_told() {
        let batches: [&[&str]; 4] = [&["ab"], &["cd"], &["e"], &["f"]];
        assert_eq!(written(3, false, &batches).await, ("abc".to_owned(), vec![true, false, false, false]));
    }
}
