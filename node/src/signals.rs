//! The signals that a daemon gets.

use std::io;

use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::spawn_local,
};
use tracing::warn;

/// Listens from now on. The first future ends at the first SIGTERM or SIGINT, the other at the second; each says which
/// it was. SIGHUP, which would end the process, is only logged. Must run in a [`tokio::task::LocalSet`].
pub(crate) fn listen() -> io::Result<(impl Future<Output = String>, impl Future<Output = String>)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (first, stop) = oneshot::channel();
    let (second, hurry) = oneshot::channel();
    spawn_local(async move {
        let mut next = async || loop {
            select! {
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
                _ = hangup.recv() => warn!(
                    "SIGHUP: this version does not reload; restart the node to read its configuration and certificates \
                     anew"
                ),
            }
        };
        // Nobody listens any more when the node has stopped.
        let _ = first.send(next().await.to_owned());
        let _ = second.send(format!("{} again", next().await));
        loop {
            next().await;
        }
    });
    // The task above ends only with the runtime.
    Ok((async { stop.await.unwrap_or_default() }, async { hurry.await.unwrap_or_default() }))
}
