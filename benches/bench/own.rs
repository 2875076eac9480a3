//! `own`: the fetch paths of Penstock beside the raw server, which shows what one thread can do
//! without a protocol.

use crate::log::Log;
use crate::plan::Plan;
use crate::results::Comparison;
use crate::server::Server;
use crate::{cold, counts, hot, scan};

/// The fetch paths measured here. The demo measures copy.
const PATHS: [&str; 3] = ["auto", "chain", "sendfile"];

/// Measures all of `own`.
///
/// # Errors
/// A server or a run fails.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Comparison> {
    cold::check(plan)?;
    let log = Log::produce(plan)?;
    let mut servers = vec![Server::raw(plan, &log)?];
    for path in PATHS {
        servers.push(Server::penstock(plan, &log, path, &[])?);
    }
    let mut results = Comparison::default();
    counts::count(plan, &servers, &mut results)?;
    hot::measure(plan, &servers, &mut results)?;
    let penstocks: Vec<&Server> = servers.iter().skip(1).collect();
    scan::measure(plan, &penstocks, &mut results)?;
    cold::measure(plan, &penstocks, &[], &mut results)?;
    servers.into_iter().try_for_each(Server::stop)?;
    Ok(results)
}
