//! What a handler answers a request with, borrowed from the request's connection and worker.
//!
//! Made by connection for each request, without allocating. Every handler takes it beside the
//! request. The authenticated principal and the check of its permissions belong here once there is
//! SASL.

use std::rc::Rc;
use std::sync::Arc;

use penstock_ring::{PeerWatch, Ring, Socket};
use tokio::sync::watch;

use crate::api::long_requests::LongRequests;
use crate::broker::Broker;
use crate::log_budget::LogBudget;
use crate::stop::Stop;

/// See the head of this file.
pub(crate) struct RequestContext<'a> {
    pub(crate) broker: &'a Arc<Broker>,
    /// The ring of the worker that answers.
    pub(crate) ring: &'a Ring,
    /// None for a long request, whose connection is another thread's.
    pub(crate) connection: Option<OfConnection<'a>>,
    pub(crate) stop: &'a watch::Receiver<Stop>,
    pub(crate) lines: &'a ApiLines,
}

/// What a connection and its worker lend to a request.
#[derive(Clone, Copy)]
pub(crate) struct OfConnection<'a> {
    pub(crate) socket: &'a Rc<Socket>,
    pub(crate) peer: &'a PeerWatch,
    pub(crate) long: &'a LongRequests,
}

impl RequestContext<'_> {
    /// Returns once the client has ended its sending side. Where the connection is another
    /// thread's, that thread waits for it.
    pub(crate) async fn peer_closed(&self) {
        match &self.connection {
            Some(connection) => connection.peer.closed(self.ring, connection.socket).await,
            None => std::future::pending().await,
        }
    }
}

/// Log budgets for lines that requests cause, for all connections of a worker.
pub(crate) struct ApiLines {
    /// For a full disk, which refuses every request.
    pub(crate) append: LogBudget,
    /// For damage and a failing disk, which every fetch meets again.
    pub(crate) fetch: LogBudget,
}
