//! Standard output for text that people or programs read; the data of `recv` has [a writer](crate::recv) of its own.

use std::io::{self, Write as _};

use serde_json::json;

use crate::failure::Failure;

/// For `--json` where there is no answer: an object that says why, as `send` and `recv` print one.
pub(crate) fn answered<T>(answer: Result<T, Failure>, json: bool) -> Result<T, Failure> {
    if let (true, Err(failure)) = (json, &answer) {
        // The failure is told on standard error too, and by the exit code.
        let _ = print(&format!("{}\n", json!({ "error": failure.to_json() })));
    }
    answer
}

/// Prints the text. A full disk or a closed pipe is a failure like any other, not a panic.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::output)
}
