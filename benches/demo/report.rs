//! The rows of the comparison, and their JSON.

pub(crate) use penstock_rig::spread::{Ratio, Spread};
use serde_json::{Value, json};

use crate::cache::Residency;
use crate::conditions::Machine;
use crate::measure::SentBytes;
use crate::run::Plan;

/// One load on one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) gb_per_s: f64,
    pub(crate) fetches_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_s_per_gb: f64,
    pub(crate) sent: SentBytes,
    /// Share of its core that the load generator used. Near 1 means that the generator, not the
    /// server, set the pace.
    pub(crate) generator_busy: f64,
}

/// Counts taken apart from the timed loads, because counting slows a server down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    /// `None`: perf is missing.
    pub(crate) system_calls_per_gb: Option<f64>,
    pub(crate) switches_per_gb: f64,
}

/// All results of one path and fetch size.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) path: &'static str,
    pub(crate) fetch_bytes: u64,
    pub(crate) counted: Counted,
    pub(crate) timed: Vec<Timed>,
}

/// All results.
#[derive(Debug)]
pub(crate) struct Report {
    /// Sorted by size, then by path.
    pub(crate) rows: Vec<Row>,
    /// The least part of the data in memory after a run. `None`: the file system does not show it.
    pub(crate) residency: Option<Residency>,
}

impl Row {
    pub(crate) fn spread(&self, of: impl Fn(&Timed) -> f64) -> Spread {
        Spread::of(self.timed.iter().map(of))
    }

    fn to_json(&self) -> Value {
        let rounds: Vec<Value> = self.timed.iter().map(|timed| timed.to_json()).collect();
        json!({
            "path": self.path,
            "partition_max_bytes": self.fetch_bytes,
            "bytes_per_s": self.spread(|timed| timed.gb_per_s * 1e9).to_json(),
            "cpu_s_per_gb": self.spread(|timed| timed.cpu_s_per_gb).to_json(),
            "system_calls_per_gb": self.counted.system_calls_per_gb,
            "context_switches_per_gb": self.counted.switches_per_gb,
            "rounds": rounds,
        })
    }
}

impl Timed {
    fn to_json(self) -> Value {
        json!({
            "bytes_per_s": self.gb_per_s * 1e9,
            "fetches_per_s": self.fetches_per_s,
            "p50_s": self.p50_ms / 1e3,
            "p99_s": self.p99_ms / 1e3,
            "cpu_s_per_gb": self.cpu_s_per_gb,
            "sent_bytes_by_copy": self.sent.copy,
            "sent_bytes_by_sendfile": self.sent.sendfile,
            "sent_bytes_by_chain": self.sent.chain,
            "generator_busy": self.generator_busy,
        })
    }
}

impl Report {
    /// The row of a path and size.
    pub(crate) fn row(&self, path: &str, fetch_bytes: u64) -> Option<&Row> {
        self.rows.iter().find(|row| row.path == path && row.fetch_bytes == fetch_bytes)
    }

    pub(crate) fn to_json(&self, machine: &Machine, plan: &Plan) -> Value {
        json!({
            "conditions": machine.to_json(),
            "parameters": plan.to_json(),
            "cached_share": self.residency.map(|residency| residency.share()),
            "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        })
    }
}
