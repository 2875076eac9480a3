//! What a request is answered with: borrowed from its connection and worker for as long as that
//! takes.
//!
//! Made by connection for each request, without allocating; every handler takes it and its request.

use std::rc::Rc;
use std::sync::Arc;

use penstock_ring::{Ring, Socket};
use tokio::sync::watch;

use crate::broker::Broker;
use crate::log_budget::LogBudget;
use crate::stop::Stop;

/// See the head of this file.
pub(crate) struct RequestContext<'a> {
    pub(crate) broker: &'a Arc<Broker>,
    /// Of the worker that answers.
    pub(crate) ring: &'a Ring,
    /// The client's.
    pub(crate) socket: &'a Rc<Socket>,
    pub(crate) stop: &'a watch::Receiver<Stop>,
    pub(crate) lines: &'a ApiLines,
}

/// What requests may log, of all connections of a worker.
pub(crate) struct ApiLines {
    /// What a full disk may log: one line a refused request would be a flood.
    pub(crate) append: LogBudget,
    /// What damage and a failing disk may log, which every fetch meets anew.
    pub(crate) fetch: LogBudget,
}
