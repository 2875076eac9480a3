//! `penstock-raw-load`: the generator that measures all servers of a comparison.
//!
//! ```text
//! readers ── one thread, one epoll, closed loop ──▶ fetches/s, latency
//! ```
//!
//! It speaks the raw server's protocol, Fetch 11, or HTTP, and treats every answer alike (see
//! `connection`). It is for benches only; `penstock-load` is the generator for people.

mod arguments;
mod connection;
mod protocol;
mod run;
mod tally;

use clap::Parser;
use serde_json::json;

use crate::arguments::Arguments;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let busy_before = penstock_rig::usage::cpu_s(std::process::id())?;
    let outcome = run::run(&arguments)?;
    let busy_s = penstock_rig::usage::cpu_s(std::process::id())? - busy_before;
    let result = json!({
        "measured": outcome.tally.to_json(outcome.measured_s),
        "measured_s": outcome.measured_s,
        "fetches_with_warm_up": outcome.fetches_with_warm_up,
        "bytes_with_warm_up": outcome.bytes_with_warm_up,
        "generator_busy": busy_s / outcome.whole_s,
    });
    println!("{result:#}");
    Ok(())
}
