//! Long requests: what would keep other connections waiting is answered on a thread of its own.
//!
//! ```text
//!   worker     frame ──decode, at most ELEMENTS_AT_ONCE──► short: answered here
//!                └── more elements, or a costly answer ──► long ──┐        ▲ reply
//!   long-requests                                                 └─► decode, answer, encode
//! ```
//!
//! A request of 262 144 names takes some milliseconds to decode, as many to look for doubles in,
//! and as many to encode the answer to: steps between which nothing else runs on a worker. The
//! scheduler divides the processors instead, and the thread has a low priority.
//!
//! Called by api; the thread is `net/long_worker.rs`. A connection sends one request
//! at a time and its frame keeps its share of the memory for requests, so the queue needs no bound
//! of its own.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::api::reply::{NoReply, Reply};

/// Elements of a request that a worker decodes and answers itself: some hundred microseconds.
pub(crate) const ELEMENTS_AT_ONCE: usize = 4096;

/// Where workers send long requests.
#[derive(Clone)]
pub(crate) struct LongRequests(mpsc::UnboundedSender<LongRequest>);

/// A request on its way to the thread.
pub(crate) struct LongRequest {
    pub(crate) frame: Bytes,
    /// When the frame was whole.
    pub(crate) received: Instant,
    /// Closed once its connection no longer waits.
    pub(crate) answered: oneshot::Sender<Result<Option<Reply>, NoReply>>,
}

impl LongRequests {
    /// The end that the workers share, and the thread's.
    pub(crate) fn new() -> (LongRequests, mpsc::UnboundedReceiver<LongRequest>) {
        let (requests, asked) = mpsc::unbounded_channel();
        (LongRequests(requests), asked)
    }

    /// Has a frame decoded and answered. Work on it ends when this future is dropped, at the next
    /// point where the handler waits or yields: a request that changes something is then carried
    /// out in part.
    ///
    /// # Errors
    /// See [`NoReply`].
    pub(crate) async fn answer(
        &self,
        frame: Bytes,
        received: Instant,
    ) -> Result<Option<Reply>, NoReply> {
        let (answered, answer) = oneshot::channel();
        let request = LongRequest { frame, received, answered };
        self.0.send(request).map_err(|_| NoReply::Lost)?;
        answer.await.map_err(|_| NoReply::Lost)?
    }
}
