//! The tail workload: many consumers at the end of a topic, a producer, and the time from the one
//! to the others.
//!
//! ```text
//! producer    due ─ send ──────► server ──────► answer's last byte   at each consumer
//!              └───────────────── latency ─────────────┘
//! ```
//!
//! Called by `main`. `args` has the parameters; `mark` is the number that a batch carries, `course`
//! what follows from it; `producer` sends, `consumer` fetches and checks with `arrivals`; `tally`
//! sums up and `report` shows. The consumers are a run of `run`, the producer is a thread beside
//! it.

mod args;
mod arrivals;
mod consumer;
mod course;
mod mark;
mod producer;
mod report;
mod tally;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde_json::Value;

pub(crate) use args::TailArgs;
use consumer::Consumers;
use course::Course;
use report::{Made, Report};
use tally::Tally;

use crate::cli::Span;
use crate::payload::SplitMix;
use crate::run::{self, Plan};
use crate::topic::Topic;

/// Runs consumers and producer until everything that was produced has been delivered, or given up.
///
/// # Errors
/// The run could not start, because of the topic or of parameters that do not fit it.
pub(crate) async fn run(args: &TailArgs, span: Span, parameters: Value) -> Result<Report> {
    let duration = span.duration.context("a tail run has a duration")?;
    let topic = Arc::new(Topic::find(&args.target, Some(args.partitions)).await?);
    let partitions = topic.partitions.len();
    let course = Course::new(run_number(), args.rate, partitions, span.warm_up, duration);
    let course = Arc::new(course);
    let consumers = Consumers::new(args, &topic, &course, duration)?;
    // Time does not end the consumers: they wait for what has been produced.
    let until_done = Span { warm_up: Duration::ZERO, duration: None };
    let common = args.consumers_run(consumers.connections());
    let threads = common.run.threads.min(common.connections);

    let consume = async {
        let outcome = run::run(consumers, Plan::new(&common, until_done)).await;
        course.stop();
        outcome
    };
    let produce = {
        let (args, topic, course) = (args.clone(), Arc::clone(&topic), Arc::clone(&course));
        run::on_own_thread(move || producer::run(&args, &topic, &course, duration))
    };
    let (outcome, produced) = tokio::join!(consume, produce);

    let tally = course.tally().take().unwrap_or_else(|| Tally::new(Instant::now()));
    let made = Made { consumers: args.consumers, threads, verified: args.verify };
    Ok(Report::new(parameters, &tally, &outcome, &produced, &made))
}

/// A number that tells this run from every other one on the topic.
fn run_number() -> u64 {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    SplitMix(since_1970.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32)).next()
}
