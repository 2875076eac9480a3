//! The conditions of the demo's numbers, as a caption under its title.

pub(crate) use penstock_rig::machine::{Cores, Machine, pinned};

use crate::run::Plan;

/// The conditions in one line.
pub(crate) fn caption(machine: &Machine, plan: &Plan) -> String {
    let mut parts = machine.words();
    parts.push(format!("{:.2} GiB in page cache", plan.total_bytes as f64 / (1_u64 << 30) as f64));
    parts.push("loopback, 16 connections, 1 worker".to_owned());
    parts.push(format!("{} rounds of {} s", plan.rounds, plan.seconds));
    parts.extend(machine.commit().map(|commit| format!("commit {commit}")));
    parts.join(" · ")
}
