//! How far it is, on standard error; nothing when that is no terminal.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Redraws a second.
const REDRAW_HZ: u8 = 10;

/// Bytes and their rate, and the percentage where the sum is known. Removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Shown only if nobody asked for `quiet` and standard error is a terminal. `total` is in bytes.
    pub(crate) fn new(quiet: bool, total: Option<u64>) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let template = match total {
            Some(_) => "{binary_bytes} of {binary_total_bytes} ({percent} %)  {binary_bytes_per_sec}  {elapsed}",
            None => "{binary_bytes}  {binary_bytes_per_sec}  {elapsed}",
        };
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(REDRAW_HZ));
        // A template that did not parse would show indicatif's own bar, which says the same.
        Self(match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    /// So many bytes more have gone through.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Prints a line above it; where nothing is shown, just prints it.
    pub(crate) fn say(&self, line: &str) {
        self.0.suspend(|| eprint_line(line));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A line on standard error. Nobody is left to be told when that is closed.
pub(crate) fn eprint_line(line: &str) {
    use io::Write as _;
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_parse_and_nothing_is_shown_in_quiet() {
        for total in [None, Some(10)] {
            assert!(Progress::new(true, total).0.is_hidden());
        }
    }
}
