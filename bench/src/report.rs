//! What is printed: one JSON object or tables on standard output, progress on standard error.

use std::{
    cell::RefCell,
    fmt,
    io::{self, Write as _},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Redraws a second.
const REDRAW_HZ: u8 = 5;

/// What a subcommand found: an object for programs, tables for people.
pub(crate) trait Report: Serialize + fmt::Display {}

/// Prints a report.
///
/// # Errors
/// Standard output's, but for a reader that has read enough.
pub(crate) fn print(report: &impl Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = if json {
        serde_json::to_writer(&mut out, report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        write!(out, "{report}")
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Rows under headings, every column as wide as it must be. The first column is words, the others are figures.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    pub(crate) fn new(headings: impl IntoIterator<Item = &'static str>) -> Self {
        Self { rows: vec![headings.into_iter().map(str::to_owned).collect()] }
    }

    /// One more row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let cell = |row: &'_ Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| cell(row, column)).max().unwrap_or_default())
            .collect();
        for row in &self.rows {
            for (column, (text, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "{text:<width$}")?,
                    _ => write!(f, "  {text:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// So many digits behind the point, for a figure that is printed in an object: more of them mean nothing.
pub(crate) fn rounded(figure: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (figure * unit).round() / unit
}

/// Bytes as MiB, to one digit.
pub(crate) fn mib(bytes: u64) -> f64 {
    rounded(bytes as f64 / (1_u64 << 20) as f64, 1)
}

/// One line on standard error that says what runs; none where that is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    what: RefCell<String>,
}

impl Progress {
    /// Nothing said yet.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(REDRAW_HZ));
        let style = ProgressStyle::with_template("{elapsed_precise}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self { bar, what: RefCell::default() }
    }

    /// What is measured from now on.
    pub(crate) fn measure(&self, what: impl Into<String>) {
        self.what.replace(what.into());
        self.bar.set_message(self.what.borrow().clone());
        self.bar.tick();
    }

    /// Which round of it has begun; 0 warms up.
    pub(crate) fn round(&self, round: usize, rounds: usize) {
        let what = self.what.borrow();
        self.bar.set_message(match round {
            0 => format!("{what}: warming up"),
            _ => format!("{what}: round {round} of {rounds}"),
        });
        self.bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // The report, or an error, follows on a clean line.
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let mut table = Table::new(["mode", "MB/s"]);
        table.row(["embedded".to_owned(), "7".to_owned()]);
        table.row(["bare".to_owned(), "12345".to_owned()]);
        assert_eq!(table.to_string(), "mode       MB/s\nembedded      7\nbare      12345\n");
    }

    #[test]
    fn figures_are_rounded_to_what_they_mean() {
        assert_eq!((rounded(1.2345, 2), mib(1_572_864)), (1.23, 1.5));
    }
}
