//! Waiting for what will happen, and no longer than it may take.

use std::{pin::pin, thread, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::binaries;

/// How long [`eventually`] asks before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it asks.
const PAUSE: Duration = Duration::from_millis(10);
/// No test may take longer than this, unless it says so.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// Asks every 10 ms until `ask` has an answer, and returns it.
///
/// # Panics
/// After 20 s without an answer; the panic names `what`.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(PAUSE).await;
    }
}

/// Runs a test's body for 60 s at most.
///
/// # Panics
/// When the time is over; the panic names the test, which is what the thread is called.
pub async fn in_time<T>(body: impl Future<Output = T>) -> T {
    in_time_of(TEST_LIMIT, body).await
}

/// The same for a test that moves gigabytes: for `limit` at most.
///
/// # Panics
/// As [`in_time`].
pub async fn in_time_of<T>(limit: Duration, body: impl Future<Output = T>) -> T {
    // Building them may take minutes, which are not the test's.
    let _ = binaries::node();
    // It outlives the panic, so that what it holds is dropped in the panic, and can say what it knows.
    let mut body = pin!(body);
    let Ok(done) = timeout(limit, body.as_mut()).await else {
        let thread = thread::current();
        panic!("{} did not end within {limit:?}", thread.name().unwrap_or("the test"));
    };
    done
}
