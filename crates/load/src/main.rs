//! `penstock-load` puts load on any server that speaks Kafka's protocol, and checks the answers. It
//! is a witness from outside: it sees the wire and the batch, and nothing of a server's inside.
//!
//! ```text
//! cli ─► topic ─► produce / fetch ─► run ─► measure ─► report, html
//!        (leaders)  (one request)    (when, how often,
//!                                     how long it took)
//! ```
//!
//! `cold_hot` makes several fetch runs, alone and side by side, and compares them. `tail` runs
//! consumers beside a producer, and measures from the one to the others.

mod cli;
mod client;
mod codec;
mod cold_hot;
mod command;
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
mod tail;
mod topic;
mod verify;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde::Serialize;
use serde_json::Value;

use cli::{CommonArgs, FetchArgs, OutputArgs, ProduceArgs, Span};
use cold_hot::ColdHotArgs;
use command::{Cli, Command};
use fetch::Fetch;
use produce::Produce;
use report::{Conditions, Figures, Interval, Report};
use run::{Outcome, Plan, run};
use tail::TailArgs;
use topic::Topic;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Produce(args) => produce(&args, checked(args.check())).await,
        Command::Fetch(args) => fetch(&args, checked(args.check())).await,
        Command::Tail(args) => tail(&args, checked(args.check())).await,
        Command::ColdHot(args) => {
            checked(args.check());
            cold_hot(&args).await
        }
    };
    match done {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(failure)) => failed(&failure),
        Err(error) => failed(&format!("{error:#}")),
    }
}

async fn produce(args: &ProduceArgs, span: Span) -> Result<Option<String>> {
    let topic = Topic::find(&args.common.target, Some(args.partitions)).await?;
    let outcome = run(Produce::new(args, topic)?, Plan::new(&args.common, span)).await;
    publish("produce", &args.common, parameters(args, span)?, &outcome, false)
}

async fn fetch(args: &FetchArgs, span: Span) -> Result<Option<String>> {
    let topic = Topic::find(&args.common.target, None).await?;
    let outcome = run(Fetch::new(args, topic), Plan::new(&args.common, span)).await;
    publish("fetch", &args.common, parameters(args, span)?, &outcome, args.verify)
}

async fn tail(args: &TailArgs, span: Span) -> Result<Option<String>> {
    let report = tail::run(args, span, parameters(args, span)?).await?;
    print(&report.headline(), &report.table(), &report.advice());
    let OutputArgs { json, html, hdr } = &args.run.output;
    write(json.as_deref(), || Ok(serde_json::to_vec_pretty(&report)?))?;
    write(html.as_deref(), || Ok(report.page().html().into()))?;
    write(hdr.as_deref(), || Ok(report::hdr_log(&[report.interval()], &report.conditions)?))?;
    Ok(report.failure())
}

async fn cold_hot(args: &ColdHotArgs) -> Result<Option<String>> {
    let report = cold_hot::run(args).await?;
    print(&report.headline(), &report.table(), &report.advice());
    let OutputArgs { json, html, hdr } = &args.output;
    write(json.as_deref(), || Ok(serde_json::to_vec_pretty(&report)?))?;
    write(html.as_deref(), || Ok(report.page().html().into()))?;
    write(hdr.as_deref(), || Ok(report::hdr_log(&report.intervals(), &report.conditions)?))?;
    Ok(report.failure())
}

/// The command line with the values that took effect.
fn parameters(args: &impl Serialize, span: Span) -> Result<Value> {
    let mut parameters = serde_json::to_value(args)?;
    if let (Value::Object(all), Value::Object(effective)) =
        (&mut parameters, serde_json::to_value(span)?)
    {
        all.extend(effective);
    }
    Ok(parameters)
}

/// Prints and writes the result, however the run ended. Returns the reason if the run failed.
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
        result: Figures::of(outcome, args.run.threads.min(args.connections), verified),
    };
    print(&report.headline(), &report.table(), &report.advice());
    let measurement = &outcome.measurement;
    let hdr_log = || report::hdr_log(&[Interval::of(measurement)], &report.conditions);
    let OutputArgs { json, html, hdr } = &args.run.output;
    write(json.as_deref(), || Ok(serde_json::to_vec_pretty(&report)?))?;
    write(html.as_deref(), || Ok(html::page(&report, &measurement.latency).into()))?;
    write(hdr.as_deref(), || Ok(hdr_log()?))?;
    Ok(report.failure())
}

fn print(headline: &str, table: &str, advice: &[String]) {
    println!("{headline}\n{table}");
    for advice in advice {
        println!("note: {advice}");
    }
}

fn write(file: Option<&Path>, content: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, content()?).with_context(|| format!("cannot write {}", file.display()))
}

/// Ends the program with exit code 2, as for misuse, if values contradict each other.
fn checked<T>(args: Result<T, String>) -> T {
    args.unwrap_or_else(|problem| Cli::command().error(ErrorKind::ValueValidation, problem).exit())
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("penstock-load: {reason}");
    ExitCode::FAILURE
}
