//! The machine and the commit of a number, because a number without its conditions is not a result.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

/// The two cores that server and load are pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// The core of the load generator.
    pub load: usize,
    /// The core of the server and its kernel workers.
    pub server: usize,
}

/// This machine, and the commit of the checkout.
#[derive(Debug)]
pub struct Machine {
    kernel: String,
    processor: Option<String>,
    usable_cores: usize,
    commit: Option<String>,
    /// `None`: this process may use only one core, or taskset is missing.
    pub cores: Option<Cores>,
}

impl Machine {
    /// Reads the properties of this machine.
    pub fn this() -> Machine {
        let usable = usable_cores();
        let taskset = output_of(Command::new("taskset").arg("--version")).is_some();
        let cores = match usable[..] {
            [load, server, ..] if taskset => Some(Cores { load, server }),
            _ => None,
        };
        Machine {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            processor: processor(),
            usable_cores: usable.len(),
            commit: commit(),
            cores,
        }
    }

    /// Names kernel, processor and cores.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![format!("Linux {}", self.kernel)];
        words.extend(self.processor.clone());
        words.push(match (self.usable_cores, self.cores) {
            (cores, Some(pinned)) => {
                format!("{cores} cores (server on {}, load on {})", pinned.server, pinned.load)
            }
            (1, None) => "1 core for server and load together".to_owned(),
            (cores, None) => format!("{cores} cores, nothing pinned"),
        });
        words
    }

    /// The short name of the commit, with a plus if the tree had changes.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The values for a result file.
    pub fn to_json(&self) -> Value {
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

/// A command that runs on one core.
pub fn pinned(core: Option<usize>, command: &Command) -> Command {
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

/// The short name of the commit, with a plus if the tree has changes.
fn commit() -> Option<String> {
    let head = output_of(Command::new("git").args(["rev-parse", "--short", "HEAD"]))?;
    let changes = output_of(Command::new("git").args(["status", "--porcelain"]))?;
    Some(if changes.is_empty() { head } else { format!("{head}+") })
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
