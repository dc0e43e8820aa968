//! Progress bars on standard error; none when it is no terminal.

use std::cell::RefCell;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    events::{Mapped, Reduced},
    report::several,
};

/// Redraws a second.
const REDRAW_HZ: u8 = 10;

/// The bars of the jobs, and then the bar of the check.
#[derive(Debug)]
pub(crate) struct Progress {
    bars: MultiProgress,
    mapped: ProgressBar,
    reduced: ProgressBar,
    /// What the jobs read together in one round over the files.
    round_bytes: u64,
    /// One for each job, where there are several.
    lines: RefCell<Vec<ProgressBar>>,
}

impl Progress {
    /// For jobs that read `round_bytes` together, once unless told otherwise.
    pub(crate) fn new(round_bytes: u64) -> Self {
        // Hidden where nobody looks.
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAW_HZ));
        let mapped = bars.add(bar("map", round_bytes, "{decimal_bytes_per_sec}  {msg}"));
        let reduced = bars.add(bar("reduce", 0, "{decimal_bytes_per_sec}  {msg}"));
        Self { bars, mapped, reduced, round_bytes, lines: RefCell::default() }
    }

    /// Says what is waited for.
    pub(crate) fn say(&self, what: &'static str) {
        self.mapped.set_message(what);
    }

    /// Every file is read so many times.
    pub(crate) fn rounds(&self, rounds: u64) {
        self.mapped.set_length(self.round_bytes.saturating_mul(rounds));
    }

    /// Says something that stays, above the bars or without them.
    pub(crate) fn note(&self, what: &str) {
        self.bars.suspend(|| eprintln!("wordcount: {what}"));
    }

    /// All jobs together have come this far.
    pub(crate) fn jobs(&self, mapped: &Mapped, reduced: &Reduced) {
        self.mapped.set_position(mapped.bytes);
        self.mapped.set_message(several(mapped.files, "file"));
        // What reducers have counted of what mappers have sent.
        self.reduced.set_length(mapped.stream_bytes.max(reduced.stream_bytes));
        self.reduced.set_position(reduced.stream_bytes);
        self.reduced.set_message(several(reduced.words, "word"));
    }

    /// Shows these lines below the bars, in place of those before.
    pub(crate) fn lines(&self, texts: &[String]) {
        let mut lines = self.lines.borrow_mut();
        while lines.len() < texts.len() {
            let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            lines.push(self.bars.add(ProgressBar::new(0).with_style(style)));
        }
        lines.iter().zip(texts).for_each(|(line, text)| line.set_message(text.clone()));
    }

    /// The jobs are done, and `bytes` are counted once more.
    pub(crate) fn check(&self, bytes: u64) -> ProgressBar {
        self.mapped.finish_and_clear();
        self.reduced.finish_and_clear();
        self.lines.take().iter().for_each(ProgressBar::finish_and_clear);
        self.bars.add(bar("check", bytes, "{decimal_bytes_per_sec}"))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // The summary, or an error, follows on a clean line. A terminal that is gone needs no cleaning.
        let _ = self.bars.clear();
    }
}

fn bar(name: &'static str, bytes: u64, rest: &str) -> ProgressBar {
    let template = format!("{{prefix:>7}} [{{bar:32}}] {{decimal_bytes}}/{{decimal_total_bytes}}  {rest}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style.progress_chars("=> ")).with_prefix(name)
}
