//! `penstock`: an async segment server. It keeps partitioned logs in Apache Kafka's on-disk format,
//! speaks Kafka's protocol and serves fetches by splice chains.
//!
//! This file is the program: it reads the command line, runs the command, and turns the outcome
//! into an exit code. A fetch goes through net/connection, api, api/fetch, broker/read and the
//! ring's transfer.

mod adopt;
mod api;
mod background;
mod broker;
mod causes;
mod clock;
mod commands;
mod config;
mod export;
mod http;
mod log_budget;
mod net;
mod pace;
mod serve;
mod small_file;
mod stop;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::causes::Causes;
use crate::commands::cli::{Arguments, Command, ServeArguments};
use crate::stop::Stop;

/// The command failed.
const FAILED: u8 = 1;
/// The command was misused; clap exits with the same.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Serve(arguments) => return serve(*arguments),
        Command::Topic(arguments) => commands::topic::run(arguments),
        Command::Top(arguments) => commands::top::run(&arguments),
        Command::Dump(arguments) => commands::dump::run(&arguments),
        Command::Scrub(arguments) => commands::scrub::run(&arguments),
        Command::Adopt(arguments) => {
            start_log(commands::cli::LogFormat::Text);
            commands::adopt::run(&arguments)
        }
        Command::Export(arguments) => {
            start_log(commands::cli::LogFormat::Text);
            commands::export::run(&arguments)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock: {}", Causes(&error));
            ExitCode::from(FAILED)
        }
    }
}

fn serve(arguments: ServeArguments) -> ExitCode {
    start_log(arguments.log_format);
    raise_open_files_limit();
    let settings = match arguments.settings(std::env::vars()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("penstock: {}", Causes(&error));
            return ExitCode::from(MISUSED);
        }
    };
    match run_server(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock: {}", Causes(&error));
            ExitCode::from(FAILED)
        }
    }
}

/// Segments and connections are descriptors, so the process takes as many as the system allows.
fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(?limit, %error, "cannot raise the limit of open files");
    }
}

/// The main thread's runtime: signals, metrics, housekeeping. Workers have their own.
#[tokio::main(flavor = "current_thread")]
async fn run_server(settings: config::settings::Settings) -> anyhow::Result<()> {
    let (stop, _) = watch::channel(Stop::No);
    tokio::spawn(stop_on_signals(stop.clone()));
    serve::run(settings, stop, announce).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The first signal drains; a second one ends all waiting.
async fn stop_on_signals(stop: watch::Sender<Stop>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("cannot listen for signals: stopping needs SIGKILL");
        return;
    };
    for stage in [Stop::Drain, Stop::Now] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(?stage, "stopping");
        stop.send_modify(|stop| *stop = (*stop).max(stage));
    }
}

fn announce(ready: &serve::Ready) {
    println!("penstock listens on {}; clients use {}", ready.listen, ready.advertised);
    if let Some(metrics) = ready.metrics {
        println!("metrics at http://{metrics}/metrics");
    }
    // Does nothing unless systemd asked for it (NOTIFY_SOCKET is set).
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "cannot report to systemd that the server is ready");
    }
}

fn start_log(format: commands::cli::LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PENSTOCK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        commands::cli::LogFormat::Text => log.with_target(false).init(),
        commands::cli::LogFormat::Json => log.json().init(),
    }
}
