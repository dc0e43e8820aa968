//! Standard output for text that people or programs read; the data of `recv` has [a writer](crate::recv) of its own.

use std::io::{self, Write as _};

use crate::failure::Failure;

/// Prints the text. A full disk or a closed pipe is a failure like any other, not a panic.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::output)
}
