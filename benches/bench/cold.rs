//! Hot readers beside a cold scan: what the scan does to them, in a closed loop and at a fixed rate.
//!
//! ```text
//! hot readers    ├─ quiet ─┤ beside 4 cold ones ├─ paced ─┤ paced, beside 4 cold ones ┤
//! ```

use anyhow::Context;

use crate::load::Load;
use crate::plan::Plan;
use crate::results::{Comparison, Phase, Run};
use crate::server::Server;

const HOT_CONNECTIONS: u32 = 8;
const HOT_BYTES: u32 = 64 << 10;
const COLD_CONNECTIONS: u32 = 4;
/// Of the slowest server's quiet maximum: what all can hold.
const RATE_SHARE: f64 = 0.5;

/// Every server in every phase, in turns; the rate is one for all.
///
/// # Errors
/// A run fails.
pub(crate) fn measure(
    plan: &Plan,
    servers: &[&Server],
    into: &mut Comparison,
) -> anyhow::Result<()> {
    let mut rate = 0.0;
    for round in 0..plan.rounds {
        plan.say(&format!("beside a cold scan, round {} of {}", round + 1, plan.rounds));
        let hot = Load::hot(HOT_CONNECTIONS, HOT_BYTES, plan.seconds);
        let beside =
            Load { phase: Phase::HotBesideCold, cold_connections: COLD_CONNECTIONS, ..hot };
        every(plan, servers, hot, round, into)?;
        every(plan, servers, beside, round, into)?;
        if round == 0 {
            rate = common_rate(&into.cold).context("no quiet run")?;
        }
        every(plan, servers, Load { phase: Phase::Paced, rate, ..hot }, round, into)?;
        let beside = Load { phase: Phase::PacedBesideCold, rate, ..beside };
        every(plan, servers, beside, round, into)?;
    }
    Ok(())
}

fn every(
    plan: &Plan,
    servers: &[&Server],
    load: Load,
    round: u32,
    into: &mut Comparison,
) -> anyhow::Result<()> {
    for server in servers {
        let run = load.on(plan, server, round, &mut into.thrown_away)?;
        into.cold.push(run);
    }
    Ok(())
}

fn common_rate(runs: &[Run]) -> Option<f64> {
    let quiet = runs.iter().filter(|run| run.phase == Phase::Hot);
    let slowest = quiet.map(|run| run.fetches_per_s).min_by(f64::total_cmp)?;
    Some((slowest * RATE_SHARE / 100.0).round() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::run;

    #[test]
    fn the_rate_is_half_of_what_the_slowest_can() {
        let runs = [run("auto", 0, 30_000.0), run("kafka", 0, 8_123.0)];
        assert_eq!(common_rate(&runs), Some(4_100.0));
        assert_eq!(common_rate(&[]), None);
    }
}
