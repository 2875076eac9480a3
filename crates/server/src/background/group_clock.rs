//! The groups' clock: ends sessions and rebalances when their time is over.
//!
//! One task on the main thread's runtime, beside the workers. It ends with a stop, or by itself if
//! the thread of committed offsets is gone, and then it takes the server with it (`serve.rs`).

use std::sync::Arc;

use tokio::sync::watch;

use crate::broker::groups::Groups;
use crate::stop::{Stop, wait_for};

/// Keeps the groups' time until a stop begins, then closes them: members that wait are answered.
/// Returns early, and closes them, if no offset can be committed any more.
pub(crate) async fn run(groups: Arc<Groups>, mut stop: watch::Receiver<Stop>) {
    tokio::select! {
        () = groups.keep_time() => {}
        () = groups.offsets.ended() => tracing::error!("the thread of offset commits ended"),
        () = wait_for(&mut stop, Stop::Drain) => {}
    }
    groups.close();
}
