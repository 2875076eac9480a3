//! `penstock-bench`: what `make bench`, `make peers`, `make bench-produce` and `make
//! bench-scenarios` run.
//!
//! ```text
//!  log ─────▶ servers ──────▶ hot     pairs, taking turns      ┐
//!  1 GiB,     on one core     cold    quiet and disturbed      ├─▶ bench-out/*.json ─▶ page, figures
//!  one file   load on another counts  calls, switches, entries │                       docs/BENCHMARKS.md
//!                             produce beside Kafka and fio     │                       docs/plots/*.svg
//!                             idle · slow · many               ┘
//! ```
//!
//! It starts release binaries and looks at them from outside; it must never link to the server.

mod cells;
mod cold;
mod cold_table;
mod counts;
mod crowd;
mod disk;
mod figures;
mod fio;
mod hot;
mod idle;
mod kafka;
mod load;
mod log;
mod many;
mod nginx;
mod own;
mod page;
mod peers;
mod plan;
mod produce;
mod produce_table;
mod results;
mod scan;
mod scenarios;
mod server;
mod slow;
mod verdict;
mod witness;

use clap::{Parser, Subcommand};

use crate::plan::{Arguments, Plan};
use crate::results::Comparison;

/// Measures Penstock on this machine and writes docs/BENCHMARKS.md.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    arguments: Arguments,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// The fetch paths beside the raw server: hot, counted, and hot beside a cold scan
    Own,
    /// The same load on Apache Kafka and nginx
    Peers,
    /// What appending costs beside Apache Kafka, and syncing beside fio
    Produce,
    /// Idle connections, peers that read nothing, thousands of large fetches
    Scenarios,
    /// Only write page and plots again from the results at hand
    Page,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let plan = Plan::new(cli.arguments)?;
    let log = Some(plan.log_bytes);
    let section = match cli.command {
        Command::Own => plan.record("own", log, own::run(&plan)?)?,
        Command::Peers => plan.record("peers", log, peers::run(&plan)?)?,
        Command::Produce => plan.record("produce", None, produce::run(&plan)?)?,
        Command::Scenarios => plan.record("scenarios", log, scenarios::run(&plan)?)?,
        Command::Page => return page::write(&plan, &page::SECTIONS.map(|(name, _)| name)),
    };
    page::write(&plan, &[section])?;
    if let (Command::Own, Some(own)) = (cli.command, plan.recorded::<Comparison>("own")?) {
        verdict::lines(&own.results).iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}
