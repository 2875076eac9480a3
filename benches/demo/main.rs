//! `make demo`: serves the same gigabyte by every fetch path, then prints and draws the costs.
//!
//! ```text
//! data ── 1 GiB on disk ──▶ run: every path × size, in rounds ──▶ report (rows)
//!                             │  server on one core                ├─▶ table + words  (stdout)
//!                             │  load on another                   ├─▶ plot           demo.svg
//!                             └─ measure: /proc, perf, /metrics    └─▶ json           demo.json
//! ```
//!
//! The demo starts the release binaries and looks at them from outside. It must never link to the
//! server.

mod conditions;
mod plot;
mod report;
mod run;
mod table;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use penstock_rig::words::wrap;
use penstock_rig::{cache, usage as measure};

use crate::conditions::{Machine, caption};
use crate::run::Plan;

/// Columns of the printed text, as wide as the table.
const LINE: usize = 130;

/// Compares the fetch paths of Penstock on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Keep the served data in a new directory of DIR during the run
    #[arg(long, value_name = "DIR", default_value = "target")]
    under: PathBuf,

    /// Directory of demo.svg and demo.json
    #[arg(long, value_name = "DIR", default_value = "demo-out")]
    out: PathBuf,

    /// Bytes of record batches to serve
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    total_bytes: u64,

    /// Rounds, in which the paths take turns. Fewer than 3 show no spread
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,

    /// Seconds of one measurement. With less than 1 a busy machine may finish no fetch
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,

    /// Keep the data after the run
    #[arg(long)]
    keep: bool,
}

/// The served data. Dropping it removes the files.
struct Data {
    dir: PathBuf,
    keep: bool,
}

impl Data {
    fn fresh(under: &Path, keep: bool) -> anyhow::Result<Data> {
        let dir = under.join(format!("demo-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Data { dir, keep })
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("the data is in {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let data = Data::fresh(&arguments.under, arguments.keep)?;
    let machine = Machine::this();
    let plan = Plan {
        dir: data.dir.clone(),
        total_bytes: arguments.total_bytes,
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        cores: machine.cores,
    };
    let report = run::run(&plan)?;

    let caption = caption(&machine, &plan);
    println!("{}\n", wrap(&caption, " · ", LINE).join("\n"));
    println!("{}\n", table::draw(&report));
    println!("{}\n", wrap(&words::tell(&report), " ", LINE).join("\n"));

    fs::create_dir_all(&arguments.out)?;
    let (svg, json) = (arguments.out.join("demo.svg"), arguments.out.join("demo.json"));
    plot::draw(&report, &caption, &svg)?;
    fs::write(&json, format!("{:#}\n", report.to_json(&machine, &plan)))?;
    println!("{} and {} have it too.", svg.display(), json.display());
    Ok(())
}
