//! What the kernel says of a process while it is measured: memory, processor time, sockets and descriptors.

use std::{fs, time::Duration};

use rustix::param::clock_ticks_per_second;
use trunkline_tests::sockets;

use crate::error::BenchError;

/// The processor time that a process has used so far, in the kernel and outside of it.
///
/// # Errors
/// When there is no such process.
pub(crate) fn processor_time(pid: u32) -> Result<Duration, BenchError> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(BenchError::io(format!("read {path}")))?;
    Ok(ticks(&text).map_or(Duration::ZERO, |ticks| {
        Duration::from_millis(ticks.saturating_mul(1_000) / clock_ticks_per_second().max(1))
    }))
}

/// The sum of `utime` and `stime` of proc_pid_stat(5), the fields 14 and 15. The second field is the program's name in
/// parentheses, which may hold anything; so it is counted from the last of these.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// What a process holds at one moment, and what it had at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident now, in bytes.
    pub(crate) resident: u64,
    /// Resident at most so far, in bytes.
    pub(crate) peak: u64,
}

impl Memory {
    /// Of this process, which must run.
    pub(crate) fn of(pid: u32) -> Self {
        Self { resident: sockets::resident_bytes(pid), peak: sockets::peak_bytes(pid) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a ) (b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 99 1 2";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (short) S 1"), None);
    }

    #[test]
    fn a_process_that_works_uses_time() {
        let mut sum = 0_u64;
        let before = processor_time(std::process::id()).unwrap();
        while processor_time(std::process::id()).unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert_ne!(sum, 0);
    }
}
