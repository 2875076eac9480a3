//! `penstock-load` on the load's core: the generator for people, which checks what it measures.
//!
//! Used where a bench speaks Kafka's protocol only: producing, and hot readers beside cold ones.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use penstock_rig::machine::pinned;
use penstock_tests::binary;
use serde_json::Value;

use crate::plan::Plan;

/// What it found, and its reason if it calls that a failure.
#[derive(Debug)]
pub(crate) struct Testimony {
    pub(crate) json: Value,
    pub(crate) failure: Option<String>,
}

/// Runs a workload of it to its end.
///
/// # Errors
/// It found nothing at all.
pub(crate) fn hear(
    plan: &Plan,
    workload: &str,
    arguments: &[(&str, String)],
) -> anyhow::Result<Testimony> {
    let file = plan.dir.join("penstock-load.json");
    let mut load = Command::new(binary("penstock-load"));
    load.arg(workload).arg("--json").arg(&file);
    for (flag, value) in arguments {
        load.args([*flag, value]);
    }
    let mut load = pinned(plan.machine.cores.map(|cores| cores.load), &load);
    let ended = load.stdin(Stdio::null()).output().context("cannot start penstock-load")?;
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    let json = fs::read(&file).with_context(|| format!("{load:?}: {}: {said}", ended.status))?;
    fs::remove_file(&file)?;
    let failure = (!ended.status.success()).then_some(said);
    Ok(Testimony { json: serde_json::from_slice(&json)?, failure })
}

/// The same, when a failure means that the server is broken.
///
/// # Errors
/// It found nothing, or a failure.
pub(crate) fn hear_well(
    plan: &Plan,
    workload: &str,
    arguments: &[(&str, String)],
) -> anyhow::Result<Value> {
    let Testimony { json, failure } = hear(plan, workload, arguments)?;
    ensure!(failure.is_none(), "penstock-load {workload} {arguments:?}: {failure:?}");
    Ok(json)
}
