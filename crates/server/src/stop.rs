//! How far a stop has come, and waiting for it.
//!
//! main moves it on; everything that runs watches it.

use tokio::sync::watch;

/// How far a stop has come. Everything that runs watches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Serving.
    No,
    /// No new requests; those in flight are answered.
    Drain,
    /// The time for that is over: their connections are closed.
    Cut,
    /// Somebody has asked a second time: nothing is waited for that can be left.
    Now,
}

/// Returns when the stop has come as far as `stage`, or when the server is gone.
pub(crate) async fn wait_for(stop: &mut watch::Receiver<Stop>, stage: Stop) {
    // An error means that the sender is gone: then there is nobody left to serve for.
    let _ = stop.wait_for(|now| *now >= stage).await;
}
