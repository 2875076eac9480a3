//! What becomes of a request: a laid-out answer, or the end of its connection.

use std::sync::Arc;
use std::time::Instant;

use penstock_storage::{Extent, Offset};
use penstock_wire::{Answer, ErrorCode, Few, RequestError, Str};

use crate::broker::cold_budgets::Charge;
use crate::broker::partition::Partition;
use crate::broker::readers::{Part, Place};

/// A laid-out answer and the file ranges its slots stand for.
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) ranges: Few<Range>,
    /// The client that asked.
    pub(crate) client_id: Str,
    /// When the request was received. Of a fetch that waited for data: when it had it.
    pub(crate) since: Instant,
}

/// Why a request gets no reply and its connection no second chance.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoReply {
    #[error("not a request that can be answered: {0}")]
    Request(#[from] RequestError),
    #[error("answers that are being made take all the memory they may")]
    Overloaded(#[from] tokio::time::error::Elapsed),
    #[error("the peer left while its request waited")]
    PeerGone,
    #[error("records sent with acks=0 were not taken: error {0}")]
    Unacknowledged(ErrorCode),
    #[error("the thread that worked on it failed")]
    Lost,
}

/// What a slot stands for, and whose it is.
pub(crate) struct Range {
    pub(crate) partition: Arc<Partition>,
    pub(crate) extent: Extent,
    /// Base offset of the segment that it lies in.
    pub(crate) segment: Offset,
    /// The offset that was asked for.
    pub(crate) asked: Offset,
    /// Base offset of the first batch.
    pub(crate) first: Offset,
    /// What the budgets were charged for it.
    pub(crate) charge: Option<Charge>,
}

impl Range {
    /// What a reader that was sent the range has got of its partition.
    pub(crate) fn part(&self) -> Part<'_> {
        let Range { partition, extent, segment, asked, first, .. } = self;
        let Extent { position: from, len_bytes, .. } = *extent;
        let (segment, asked, first, until) = (*segment, *asked, *first, extent.end());
        Part { partition, place: Place { asked, segment, first, from, until }, len_bytes }
    }
}
