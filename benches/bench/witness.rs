//! Runs `penstock-load`, the generator for people, on the load's core. It checks the records that
//! it reads.
//!
//! Used where all servers speak Kafka's protocol: for producing, and for hot readers beside cold
//! ones.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use penstock_rig::machine::pinned;
use penstock_tests::binary;
use serde_json::Value;

use crate::plan::Plan;

/// The result of a run, and the reason if it failed.
#[derive(Debug)]
pub(crate) struct Testimony {
    pub(crate) json: Value,
    pub(crate) failure: Option<String>,
}

/// Runs a workload to its end. A flag has an empty value.
///
/// # Errors
/// The run left no result.
pub(crate) fn hear(
    plan: &Plan,
    workload: &str,
    arguments: &[(&str, String)],
) -> anyhow::Result<Testimony> {
    let file = plan.dir.join("penstock-load.json");
    let mut load = Command::new(binary("penstock-load"));
    load.arg(workload).arg("--json").arg(&file);
    for (flag, value) in arguments {
        load.arg(flag);
        if !value.is_empty() {
            load.arg(value);
        }
    }
    let mut load = pinned(plan.machine.cores.map(|cores| cores.load), &load);
    let ended = load.stdin(Stdio::null()).output().context("cannot start penstock-load")?;
    let output = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    let json = fs::read(&file).with_context(|| format!("{load:?}: {}: {output}", ended.status))?;
    fs::remove_file(&file)?;
    let failure = (!ended.status.success()).then_some(output);
    Ok(Testimony { json: serde_json::from_slice(&json)?, failure })
}

/// Runs a workload whose failure means that the server is broken.
///
/// # Errors
/// The run left no result, or failed.
pub(crate) fn hear_well(
    plan: &Plan,
    workload: &str,
    arguments: &[(&str, String)],
) -> anyhow::Result<Value> {
    let Testimony { json, failure } = hear(plan, workload, arguments)?;
    ensure!(failure.is_none(), "penstock-load {workload} {arguments:?}: {failure:?}");
    Ok(json)
}
