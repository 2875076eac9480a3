//! How far a stop has come, and waiting for it.
//!
//! main moves it on; everything that runs watches it.

use tokio::sync::watch;

/// The stages of a stop, in order. Everything that runs watches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// The server serves.
    No,
    /// No new request is taken; requests in flight are answered.
    Drain,
    /// The time for requests in flight is over: their connections are closed.
    Cut,
    /// A second signal came: whatever can be left undone is left.
    Now,
}

/// Returns when the stop has come as far as `stage`, or when the server is gone.
pub(crate) async fn wait_for(stop: &mut watch::Receiver<Stop>, stage: Stop) {
    // The sender has gone, so the server has, too.
    let _ = stop.wait_for(|now| *now >= stage).await;
}
