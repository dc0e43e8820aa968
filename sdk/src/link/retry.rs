//! Trying again to reach a node that is not there yet.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

/// The first pause; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause: how late a program notices that its node is up.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Tries until it succeeds, fails for good, or `within` has passed: no attempt begins after that. The last error says how
/// often it was tried.
pub(super) async fn retry<T>(within: Duration, mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    let mut attempts: u32 = 0;
    loop {
        attempts = attempts.saturating_add(1);
        let error = match attempt().await {
            Err(error) if within > Duration::ZERO && error.is_retryable() => error,
            done => return done,
        };
        let jittered = jittered(pause);
        let spent = begun.elapsed();
        if spent.saturating_add(jittered) > within {
            return Err(error.after(attempts, spent));
        }
        tokio::time::sleep(jittered).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The pause after so many refusals.
pub(super) fn backoff(refusals: u32) -> Duration {
    jittered(PAUSE_MIN.saturating_mul(1 << refusals.min(16)).min(PAUSE_MAX))
}

/// Half of it to all of it, so that the processes of a node that was restarted do not come back in step.
fn jittered(pause: Duration) -> Duration {
    // Without random numbers they come in step, and that is all.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_pause_is_shortened_by_half_at_most() {
        for pause in [PAUSE_MIN, PAUSE_MAX] {
            for _ in 0..100 {
                let jittered = jittered(pause);
                assert!(jittered >= pause / 2 && jittered <= pause, "{jittered:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_again_until_it_succeeds() {
        let mut attempts = 0;
        let tried = retry(Duration::MAX, async || {
            attempts += 1;
            if attempts < 100 { Err(Error::connect_timeout(Path::new("/x"), PAUSE_MIN)) } else { Ok(attempts) }
        });
        assert_eq!(tried.await.unwrap(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_says_for_how_long_and_what_does_not_get_better_is_not_tried_again() {
        let missing = async || Err::<(), _>(Error::connect_timeout(Path::new("/x"), PAUSE_MIN));
        let error = retry(Duration::from_millis(1), missing).await.unwrap_err();
        assert!(error.to_string().contains("; tried once in "), "{error}");
        let mut attempts = 0;
        let refused = async || {
            attempts += 1;
            Err::<(), _>(Error::no_node(Path::new("/x"), "it says nothing"))
        };
        let error = retry(Duration::MAX, refused).await.unwrap_err();
        assert_eq!((error.kind(), attempts), (ErrorKind::Connect, 1));
    }
}
