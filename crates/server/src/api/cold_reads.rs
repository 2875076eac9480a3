//! How much of what a fetch has found may be read from the disk now.
//!
//! Called by fetch for each partition of a plan, if a setting bounds cold reads. Decides for one
//! extent and waits for nothing; fetch waits, if the plan has nothing else to send.
//!
//! ```text
//!   extent ──in memory, or not bounded──► All
//!     └── from the disk ──► take from the buckets ──► UpTo (and the charge), or Postponed
//! ```

use std::time::{Duration, Instant};

use penstock_ring::Socket;
use penstock_storage::Extent;

use crate::api::context::RequestContext;
use crate::broker::cold_budgets::{Charge, Read};
use crate::broker::partition::Partition;

/// How long a fetch is held at least while its budget allows nothing, even if it asked not to wait:
/// a client that asks again at once gains nothing. Far below any request time-out.
pub(crate) const HOLD: Duration = Duration::from_secs(1);

/// What may be sent of an extent.
pub(crate) enum Granted {
    All,
    /// So many bytes, or one batch.
    UpTo(u64, Charge),
    /// Nothing for so long.
    Postponed(Duration),
}

/// Asks the budgets for an extent.
pub(crate) fn grant(
    context: &RequestContext<'_>,
    client_id: &str,
    partition: &Partition,
    extent: &Extent,
) -> Granted {
    let bounding = context.broker.cold_budgets.as_ref().filter(|budgets| budgets.bounds_reads());
    let Some(budgets) = bounding else { return Granted::All };
    let peer = context.connection.as_ref().map(|connection| &**connection.socket);
    let Extent { file, position, len_bytes, .. } = extent;
    let disk_bytes = context.ring.disk_bytes(file, position.0, *len_bytes, peer);
    if disk_bytes == 0 {
        return Granted::All;
    }
    // A hot reader has missed a page, or goes on behind one that it missed.
    let is_mostly_cached = disk_bytes < len_bytes / 2;
    let is_of_scan = !is_mostly_cached && peer.is_none_or(Socket::is_scanning);
    let read = Read { bytes: disk_bytes, is_of_scan };
    let name = &partition.name;
    match budgets.take(client_id, &name.topic, name.partition, read, Instant::now()) {
        Ok(charge) if charge.bytes() < disk_bytes => Granted::UpTo(charge.bytes(), charge),
        Ok(charge) => Granted::UpTo(*len_bytes, charge),
        Err(wait) => Granted::Postponed(wait),
    }
}
