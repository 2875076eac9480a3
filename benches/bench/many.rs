//! Measures three thousand 1 MiB fetches at once, by a server of root and by one of a user with a
//! pipe budget.
//!
//! Without CAP_SYS_RESOURCE a user has 16384 pipe pages in all. A server that ignores the budget
//! ends with pipes of two pages. Root has no budget, so its server is the baseline.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use penstock_rig::machine::pinned;
use penstock_tests::{Penstock, binary};

use crate::crowd;
use crate::load::Load;
use crate::log::Log;
use crate::plan::Plan;
use crate::results::Many;
use crate::server::{self, Server};

const CONNECTIONS: u32 = 3000;
const FETCH_BYTES: u32 = 1 << 20;
const PATHS: [&str; 2] = ["auto", "chain"];
/// Seconds of a run. One round of all connections takes longer than an ordinary run.
const TIMES_LONGER: f64 = 8.0;
const ROUNDS_MAX: u32 = 3;
const NOBODY: u32 = 65_534;

/// Measures pairs by path. There are none unless root runs this process, because only root can be
/// both users.
///
/// # Errors
/// A run fails.
pub(crate) fn measure(plan: &Plan, log: &Log) -> anyhow::Result<Vec<Many>> {
    if !rustix::process::geteuid().is_root() {
        plan.say("not root: no comparison of root with another user");
        return Ok(Vec::new());
    }
    crowd::allow_descriptors(u64::from(CONNECTIONS) + 1000)?;
    PATHS.iter().map(|path| by_path(plan, log, path)).collect()
}

fn by_path(plan: &Plan, log: &Log, path: &str) -> anyhow::Result<Many> {
    let load = Load {
        connections: CONNECTIONS,
        fetch_bytes: FETCH_BYTES,
        seconds: plan.seconds * TIMES_LONGER,
    };
    let data_dir = plan.fresh(&format!("many-{path}"))?;
    log.linked(&data_dir)?;
    let mut pairs = Vec::new();
    for round in 0..plan.rounds.min(ROUNDS_MAX) {
        plan.say(&format!("{CONNECTIONS} large fetches by {path}, round {}", round + 1));
        let fetches_per_s = |uid: u32| -> anyhow::Result<f64> {
            give(&data_dir, uid)?;
            let server = Server::of_penstock(start(plan, &data_dir, path, uid)?, path, log);
            let run = load.on(plan, &server, round, &mut 0)?;
            server.stop()?;
            Ok(run.fetches_per_s)
        };
        pairs.push((fetches_per_s(0)?, fetches_per_s(NOBODY)?));
    }
    Ok(Many { path: path.to_owned(), connections: CONNECTIONS, fetch_bytes: FETCH_BYTES, pairs })
}

fn start(plan: &Plan, data_dir: &Path, path: &str, uid: u32) -> anyhow::Result<Penstock> {
    let connections = (CONNECTIONS + 100).to_string();
    let start = server::penstock(data_dir, path).set(&[("max.connections", &connections)]);
    let mut command = Command::new(binary("penstock"));
    if uid != 0 {
        command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
        command.arg("--clear-groups").arg(binary("penstock"));
    }
    command.args(start.arguments());
    Penstock::start(pinned(plan.machine.cores.map(|cores| cores.server), &command))
}

fn give(path: &Path, uid: u32) -> std::io::Result<()> {
    chown(path, Some(uid), Some(uid))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), uid)?;
        }
    }
    Ok(())
}
