//! One run of the generator on one server, with what the server used meanwhile.

use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use penstock_rig::machine::pinned;
use penstock_rig::usage::{self, GB};
use penstock_tests::binary;
use serde_json::Value;

use crate::plan::Plan;
use crate::results::Run;
use crate::server::Server;

const WARM_UP_S: f64 = 0.3;
/// Tries of a run before the bench gives up on a page cache that does not keep its pages.
const TRIES: u32 = 4;

/// A closed loop of fetches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: u32,
    pub(crate) fetch_bytes: u32,
    pub(crate) seconds: f64,
}

impl Load {
    /// Runs the load. A run that began or ended with a hot page missing from the cache is discarded
    /// and counted.
    ///
    /// # Errors
    /// Generator or server fails, or the hot part does not stay in the cache.
    pub(crate) fn on(
        &self,
        plan: &Plan,
        server: &Server,
        round: u32,
        thrown_away: &mut u32,
    ) -> anyhow::Result<Run> {
        for _ in 0..TRIES {
            server.log.warm()?;
            let before = server.log.is_hot()?;
            let run = self.once(plan, server, round)?;
            if before && server.log.is_hot()? {
                return Ok(run);
            }
            *thrown_away += 1;
        }
        bail!("the hot part of {} does not stay in the page cache", server.log.segment.display())
    }

    fn once(&self, plan: &Plan, server: &Server, round: u32) -> anyhow::Result<Run> {
        let cpu_before = usage::cpu_s(server.pid)?;
        let output = finish(&mut self.command(plan, server))
            .with_context(|| format!("{self:?} on {}", server.name))?;
        let cpu_s = usage::cpu_s(server.pid)? - cpu_before;
        self.read(server, round, cpu_s, &output)
    }

    /// The command of the generator, on its core.
    pub(crate) fn command(&self, plan: &Plan, server: &Server) -> Command {
        let mut load = Command::new(binary("penstock-raw-load"));
        let log = &server.log;
        let std::ops::Range { start, end } = log.hot_part();
        load.args(&server.language).args(["--server", &server.address.to_string()]);
        load.args(["--connections", &self.connections.to_string()]);
        load.args(["--fetch-bytes", &self.fetch_bytes.to_string()]);
        load.args(["--part", &format!("{start}..{end}")]);
        load.args(["--seconds", &self.seconds.to_string()]);
        load.args(["--warm-up", &WARM_UP_S.to_string()]);
        pinned(plan.machine.cores.map(|cores| cores.load), &load)
    }

    fn read(&self, server: &Server, round: u32, cpu_s: f64, output: &Value) -> anyhow::Result<Run> {
        let number =
            |value: &Value| value.as_f64().with_context(|| format!("no number in {output}"));
        let (measured, latency) = (&output["measured"], &output["measured"]["latency_us"]);
        Ok(Run {
            server: server.name.clone(),
            round,
            fetch_bytes: self.fetch_bytes,
            connections: self.connections,
            fetches_per_s: number(&measured["fetches_per_s"])?,
            p50_us: number(&latency["p50"])?,
            p99_us: number(&latency["p99"])?,
            server_cpu_s_per_fetch: cpu_s / number(&output["fetches_with_warm_up"])?,
            server_cpu_s_per_gb: cpu_s / (number(&output["bytes_with_warm_up"])? / GB),
            generator_busy: number(&output["generator_busy"])?,
        })
    }
}

/// Runs a generator to its end and returns its output.
///
/// # Errors
/// The generator fails.
pub(crate) fn finish(load: &mut Command) -> anyhow::Result<Value> {
    let ended = load.stdin(Stdio::null()).output().with_context(|| format!("{load:?}"))?;
    let output = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{load:?} ended with {}: {output}", ended.status);
    Ok(serde_json::from_slice(&ended.stdout)?)
}
