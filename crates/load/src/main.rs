//! `penstock-load`: puts load on any server that speaks Kafka's protocol, and looks at what comes
//! back. A witness from outside: it sees the wire and the batch, nothing of a server's inside.
//!
//! ```text
//! cli ─► topic ─► produce / fetch ─► run ─► measure ─► report, html
//!        (who       (one request)    (when, how often,
//!         leads)                      how long it took)
//! ```

mod cli;
mod client;
mod codec;
mod cursor;
mod discard;
mod fetch;
mod html;
mod measure;
mod pace;
mod payload;
mod produce;
mod progress;
mod report;
mod run;
mod schedule;
mod topic;
mod verify;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde::Serialize;
use serde_json::Value;

use cli::{Cli, Command, CommonArgs, FetchArgs, ProduceArgs, Span};
use fetch::Fetch;
use produce::Produce;
use report::{Conditions, Figures, Report};
use run::{Outcome, Plan, run};
use topic::Topic;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Produce(args) => produce(&args, checked(args.check())).await,
        Command::Fetch(args) => fetch(&args, checked(args.check())).await,
    };
    match done {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(failure)) => failed(&failure),
        Err(error) => failed(&format!("{error:#}")),
    }
}

async fn produce(args: &ProduceArgs, span: Span) -> Result<Option<String>> {
    let topic = Topic::find(&args.common, Some(args.partitions)).await?;
    let outcome = run(Produce::new(args, topic)?, Plan::new(&args.common, span)).await;
    publish("produce", &args.common, parameters(args, span)?, &outcome, false)
}

async fn fetch(args: &FetchArgs, span: Span) -> Result<Option<String>> {
    let topic = Topic::find(&args.common, None).await?;
    let outcome = run(Fetch::new(args, topic), Plan::new(&args.common, span)).await;
    publish("fetch", &args.common, parameters(args, span)?, &outcome, args.verify)
}

/// The command line as it took effect.
fn parameters(args: &impl Serialize, span: Span) -> Result<Value> {
    let mut parameters = serde_json::to_value(args)?;
    if let (Value::Object(all), Value::Object(effective)) =
        (&mut parameters, serde_json::to_value(span)?)
    {
        all.extend(effective);
    }
    Ok(parameters)
}

/// Prints and writes what was found, however the run ended; gives the reason if it failed.
fn publish(
    workload: &'static str,
    args: &CommonArgs,
    parameters: Value,
    outcome: &Outcome,
    verified: bool,
) -> Result<Option<String>> {
    let report = Report {
        tool: "penstock-load",
        version: env!("CARGO_PKG_VERSION"),
        workload,
        conditions: Conditions::here(),
        parameters,
        result: Figures::of(outcome, args.threads.min(args.connections), verified),
    };
    println!("{}\n{}", report.headline(), report.table());
    for advice in report.advice() {
        println!("note: {advice}");
    }
    let measurement = &outcome.measurement;
    write(args.json.as_deref(), || Ok(serde_json::to_vec_pretty(&report)?))?;
    write(args.html.as_deref(), || Ok(html::page(&report, &measurement.latency).into()))?;
    write(args.hdr.as_deref(), || Ok(report::hdr_log(measurement, &report.conditions)?))?;
    Ok(report.failure())
}

fn write(file: Option<&Path>, content: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, content()?).with_context(|| format!("cannot write {}", file.display()))
}

/// Values that contradict each other end the program as misuse does, with exit code 2.
fn checked(span: Result<Span, String>) -> Span {
    span.unwrap_or_else(|problem| Cli::command().error(ErrorKind::ValueValidation, problem).exit())
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("penstock-load: {reason}");
    ExitCode::FAILURE
}
