//! `peers`: the same load on the servers that a user would pick instead.
//!
//! nginx and the raw server do not speak Kafka's protocol, so they take no part in the cold scan,
//! whose generator speaks only that.

use penstock_rig::usage;

use crate::hot::{CONNECTIONS, SIZES};
use crate::load::{Load, finish};
use crate::log::Log;
use crate::plan::Plan;
use crate::results::{Comparison, Memory};
use crate::server::Server;
use crate::{cold, counts, hot, kafka, nginx};

/// Seconds of load before Kafka is measured. A Java virtual machine compiles frequent code, and is
/// another program before that.
const JAVA_WARM_UP_S: f64 = 10.0;

/// Measures all of `peers`.
///
/// # Errors
/// A peer is missing, or a run fails.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Comparison> {
    cold::check(plan)?;
    let log = Log::produce(plan)?;
    let mut results = Comparison::default();
    let servers = [
        Server::raw(plan, &log)?,
        Server::penstock(plan, &log, "auto", &[])?,
        kafka::start(plan)?,
        nginx::start(plan, &log, false)?,
        nginx::start(plan, &log, true)?,
    ];
    plan.say("warming Apache Kafka up");
    for fetch_bytes in SIZES {
        let seconds = JAVA_WARM_UP_S.max(plan.seconds);
        let load = Load { connections: CONNECTIONS, fetch_bytes, seconds };
        finish(&mut load.command(plan, &servers[2]))?;
    }
    hot::measure(plan, &servers, &mut results)?;
    counts::count(plan, &servers, &mut results)?;
    let [_, auto, kafka, ..] = &servers;
    let chain = Server::penstock(plan, &log, "chain", &[])?;
    let sendfile = Server::penstock(plan, &log, "sendfile", &[])?;
    cold::measure(plan, &[auto, &chain, &sendfile, kafka], &[auto, kafka], &mut results)?;
    chain.stop()?;
    sendfile.stop()?;
    for server in &servers {
        let (resident_bytes, most_resident_bytes) = usage::resident_bytes(server.pid)?;
        let server = server.name.clone();
        results.memory.push(Memory { server, resident_bytes, most_resident_bytes });
    }
    servers.into_iter().try_for_each(Server::stop)?;
    Ok(results)
}
