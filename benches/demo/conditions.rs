//! Under which conditions the numbers were taken. A number without them is not a result.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::run::Plan;

/// The two cores that server and load are pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores {
    pub(crate) load: usize,
    pub(crate) server: usize,
}

/// The machine and the source.
#[derive(Debug)]
pub(crate) struct Conditions {
    kernel: String,
    processor: Option<String>,
    usable_cores: usize,
    commit: Option<String>,
    /// `None`: only one core may be used, or there is no taskset.
    pub(crate) cores: Option<Cores>,
}

impl Conditions {
    pub(crate) fn of_this_machine() -> Conditions {
        let usable = usable_cores();
        let taskset = output_of(Command::new("taskset").arg("--version")).is_some();
        let cores = match usable[..] {
            [load, server, ..] if taskset => Some(Cores { load, server }),
            _ => None,
        };
        Conditions {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            processor: processor(),
            usable_cores: usable.len(),
            commit: commit(),
            cores,
        }
    }

    /// One or two sentences for people, under the title of table and picture.
    pub(crate) fn caption(&self, plan: &Plan) -> String {
        let mut parts = vec![format!("Linux {}", self.kernel)];
        parts.extend(self.processor.clone());
        parts.push(match (self.usable_cores, self.cores) {
            (cores, Some(pinned)) => {
                format!("{cores} cores (server on {}, load on {})", pinned.server, pinned.load)
            }
            (1, None) => "1 core for server and load together".to_owned(),
            (cores, None) => format!("{cores} cores, nothing pinned"),
        });
        parts.push(format!(
            "{:.2} GiB in page cache",
            plan.total_bytes as f64 / (1_u64 << 30) as f64
        ));
        parts.push("loopback, 16 connections, 1 worker".to_owned());
        parts.push(format!("{} rounds of {} s", plan.rounds, plan.seconds));
        parts.extend(self.commit.as_ref().map(|commit| format!("commit {commit}")));
        parts.join(" · ")
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "processor": self.processor,
            "cores": self.usable_cores,
            "server_core": self.cores.map(|cores| cores.server),
            "load_core": self.cores.map(|cores| cores.load),
            "commit": self.commit,
        })
    }
}

/// Runs a command on one core.
pub(crate) fn pinned(core: Option<usize>, command: &Command) -> Command {
    let Some(core) = core else {
        let mut plain = Command::new(command.get_program());
        plain.args(command.get_args());
        return plain;
    };
    let mut taskset = Command::new("taskset");
    taskset.args(["--cpu-list", &core.to_string()]);
    taskset.arg(command.get_program()).args(command.get_args());
    taskset
}

fn usable_cores() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect()
}

fn processor() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Short name of the commit, with a plus when the tree has changes.
fn commit() -> Option<String> {
    let head = output_of(Command::new("git").args(["rev-parse", "--short", "HEAD"]))?;
    let changes = output_of(Command::new("git").args(["status", "--porcelain"]))?;
    Some(if changes.is_empty() { head } else { format!("{head}+") })
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
