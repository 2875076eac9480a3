//! The cost of a fetch in the kernel: system calls, context switches, ring entries per enter.
//!
//! Counted apart from the timed runs, because counting slows a server down.

use std::fs;

use anyhow::Context;
use penstock_rig::usage::{self, perf_counts, under_perf};
use penstock_tests::Penstock;

use crate::hot::{CONNECTIONS, SIZES};
use crate::load::{Load, finish};
use crate::plan::Plan;
use crate::results::{Comparison, Counts};
use crate::server::Server;

/// Counts every server at every size once.
///
/// # Errors
/// A run fails.
pub(crate) fn count(plan: &Plan, servers: &[Server], into: &mut Comparison) -> anyhow::Result<()> {
    let perf = usage::perf_works();
    plan.say(if perf { "counting" } else { "counting, without perf" });
    for server in servers {
        for fetch_bytes in SIZES {
            into.counts.push(one(plan, server, fetch_bytes, perf)?);
        }
    }
    Ok(())
}

fn one(plan: &Plan, server: &Server, fetch_bytes: u32, perf: bool) -> anyhow::Result<Counts> {
    let load = Load { connections: CONNECTIONS, fetch_bytes, seconds: plan.seconds / 2.0 };
    let mut command = load.command(plan, server);
    let perf_file = plan.dir.join("perf.csv");
    if perf {
        command = under_perf(server.pid, &perf_file, &command);
    }
    let ring_before = server.as_penstock().map(ring).transpose()?;
    let switches_before = usage::switches_of(server.pid)?;
    let output = finish(&mut command)?;
    let switches = usage::switches_of(server.pid)?.saturating_sub(switches_before);
    let ring_after = server.as_penstock().map(ring).transpose()?;
    let counted = if perf { perf_counts(&fs::read_to_string(&perf_file)?) } else { None };
    let fetches = output["fetches_with_warm_up"].as_f64().context("no number of fetches")?;
    let entries_per_enter = |((entries, enters), (entries_before, enters_before))| {
        per_enter(entries - entries_before, enters - enters_before)
    };
    Ok(Counts {
        server: server.name.clone(),
        fetch_bytes,
        system_calls_per_fetch: counted.map(|counted| counted.system_calls as f64 / fetches),
        switches_per_fetch: counted.map_or(switches, |counted| counted.switches) as f64 / fetches,
        ring_entries_per_enter: ring_after.zip(ring_before).and_then(entries_per_enter),
    })
}

/// Entries and enters of all rings so far.
fn ring(penstock: &Penstock) -> anyhow::Result<(u64, u64)> {
    let metrics = penstock.metrics()?;
    let of = |name: &str| metrics.value(&format!("penstock_ring_{name}_total"));
    Ok((of("entries"), of("enters")))
}

fn per_enter(entries: u64, enters: u64) -> Option<f64> {
    (enters > 0).then(|| entries as f64 / enters as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_was_not_entered_has_no_ratio() {
        assert_eq!(per_enter(12, 4), Some(3.0));
        assert_eq!(per_enter(0, 0), None);
    }
}
