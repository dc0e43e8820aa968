//! How much QUIC is to hold on the way to a peer: about twice what the path itself holds.
//!
//! With less the path would be idle while acknowledgements come back. What is more than that waits, in QUIC or in the
//! peer's socket, and whatever is small and urgent waits behind it. What a path holds is its bandwidth times its delay. As
//! in BBR (Cardwell et al., *BBR: Congestion-Based Congestion Control*, 2016), the bandwidth is estimated by what went
//! out, the delay by the least round trip that the path has shown: those that are longer have waited behind our own bytes.
//! A path that becomes longer later is given less than twice its content then, and never less than
//! [`WINDOW_BYTES_MIN`]; one that is busy from its first moment on is taken for as long as its own queue, and given all
//! that the configuration allows.

use std::time::{Duration, Instant};

/// The least: what a round trip of 0.2 ms lets through at 10 Gbit/s.
pub(super) const WINDOW_BYTES_MIN: u64 = 256 * 1024;
/// So long is measured at least; less would measure how a thread is scheduled.
const MEASURE_MIN: Duration = Duration::from_millis(20);
/// When it took so long to come to an end of a measurement, nothing was sent for most of it.
const MEASURE_MAX: Duration = Duration::from_secs(1);
/// A window that is too large shrinks by this part of the difference with each measurement: a pause need not be slowness.
const SHRINK: u64 = 8;
/// Windows differ by whole steps.
const STEP_BYTES: u64 = 16 * 1024;

/// See the module.
pub(super) struct PathWindow {
    bytes: u64,
    /// The least round trip so far.
    rtt: Duration,
    since: Instant,
    /// Written since then.
    written: u64,
    /// Something had to wait for room since then: it was the path that was slow, and not who sends.
    has_waited: bool,
}

impl PathWindow {
    /// For a path that has shown this round trip while nothing was sent on it.
    pub(super) fn new(rtt: Duration, now: Instant) -> Self {
        Self { bytes: WINDOW_BYTES_MIN, rtt, since: now, written: 0, has_waited: false }
    }

    /// So many bytes went out, and had to wait for room or not. Returns the window when it is to be another from now on; `rtt`
    /// is asked at most once.
    pub(super) fn written(
        &mut self,
        bytes: usize,
        has_waited: bool,
        now: Instant,
        rtt: impl FnOnce() -> Duration,
    ) -> Option<u64> {
        self.written += bytes as u64;
        self.has_waited |= has_waited;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < MEASURE_MIN {
            return None;
        }
        let smoothed = rtt();
        self.rtt = self.rtt.min(smoothed);
        if elapsed < smoothed {
            return None;
        }
        let (written, has_waited) = (std::mem::take(&mut self.written), std::mem::take(&mut self.has_waited));
        self.since = now;
        if elapsed > MEASURE_MAX.max(2 * smoothed) {
            return None;
        }
        let before = self.bytes;
        let twice = 2 * self.rtt.as_nanos() * u128::from(written) / elapsed.as_nanos();
        let wanted = u64::try_from(twice).unwrap_or(u64::MAX).max(WINDOW_BYTES_MIN);
        let next = match wanted < before {
            true if has_waited => before - (before - wanted) / SHRINK,
            true => before,
            false => wanted,
        };
        self.bytes = next / STEP_BYTES * STEP_BYTES;
        (self.bytes != before).then_some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path of this round trip that lets `rate` bytes a second through, for a sender that never has less to send than
    /// its window. What is more than the path holds waits in it. Returns the window after so many seconds.
    fn window_on(rtt: Duration, rate: u64, ms: u32, window: &mut PathWindow, now: &mut Instant) -> u64 {
        let mut bytes = window.bytes;
        for _ in 0..ms {
            let delay = rtt.max(Duration::from_nanos(bytes * 1_000_000_000 / rate));
            *now += Duration::from_millis(1);
            let sent = u128::from(bytes) * 1_000_000 / delay.as_nanos();
            bytes = window.written(usize::try_from(sent).unwrap(), true, *now, || delay).unwrap_or(bytes);
        }
        bytes
    }

    #[test]
    fn a_window_comes_to_twice_what_the_path_holds_whatever_that_is() {
        for (rtt_us, megabytes) in
            [(100, 100), (200, 1_000), (1_000, 1_000), (1_000, 3_000), (20_000, 100), (80_000, 125)]
        {
            let mut now = Instant::now();
            let (rtt, holds) = (Duration::from_micros(rtt_us), rtt_us * megabytes);
            let mut window = PathWindow::new(rtt, now);
            let bytes = window_on(rtt, megabytes * 1_000_000, 3_000, &mut window, &mut now);
            let (least, most) = ((holds * 18 / 10).max(WINDOW_BYTES_MIN), (holds * 21 / 10).max(WINDOW_BYTES_MIN));
            assert!((least..=most).contains(&bytes), "{bytes} for {holds} at {rtt_us} us");
        }
    }

    #[test]
    fn it_grows_within_some_round_trips_and_shrinks_when_the_path_becomes_slow() {
        let (rtt, mut now) = (Duration::from_millis(10), Instant::now());
        let mut window = PathWindow::new(rtt, now);
        let fast = window_on(rtt, 1_000_000_000, 200, &mut window, &mut now);
        assert!(fast >= 15_000_000, "{fast}");
        let slow = window_on(rtt, 100_000_000, 5_000, &mut window, &mut now);
        assert!((1_500_000..=2_200_000).contains(&slow), "{slow}");
    }

    #[test]
    fn who_sends_little_without_waiting_keeps_the_window() {
        let (rtt, mut now) = (Duration::from_millis(80), Instant::now());
        let mut window = PathWindow::new(rtt, now);
        window_on(rtt, 100_000_000, 2_000, &mut window, &mut now);
        // The end of what was measured before.
        now += rtt;
        window.written(0, false, now, || rtt);
        let busy = window.bytes;
        assert!(busy > 10_000_000, "{busy}");
        for _ in 0..100 {
            now += Duration::from_millis(100);
            assert_eq!(window.written(1_000, false, now, || rtt), None);
        }
        assert_eq!(window.bytes, busy);
    }

    #[test]
    fn a_pause_is_no_measurement() {
        let mut now = Instant::now();
        let rtt = Duration::from_millis(10);
        let mut window = PathWindow::new(rtt, now);
        let busy = window_on(rtt, 1_000_000_000, 1_000, &mut window, &mut now);
        now += Duration::from_secs(60);
        assert_eq!(window.written(1, true, now, || rtt), None);
        assert_eq!(window.bytes, busy);
    }
}
