//! The command line, joined with file and environment into settings.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::durability;
use crate::config::settings::{KEYS, Settings};

/// Serves partitioned logs in Apache Kafka's format by zero copy.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the server until SIGTERM or SIGINT: the first drains, a second one stops at once.
    #[command(after_help = settings_help())]
    Serve(Box<ServeArguments>),
    /// Creates, lists, describes or deletes topics of a running server.
    Topic(TopicArguments),
    /// Shows who reads what from a running server, and who reads from its disk.
    Top(TopArguments),
    /// Shows the batches and records of a segment file, and whether they are sound.
    Dump(DumpArguments),
    /// Checks every batch and index of a data directory that no server uses.
    Scrub(ScrubArguments),
    /// Applies this server's retention to topics from a Kafka that have no known retention.
    Adopt(AdoptArguments),
    /// Prints a shell script that hands a data directory's topics to a Kafka; no server may use the
    /// directory.
    Export(ExportArguments),
}

/// Flags override the environment, the environment overrides the file.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// TOML file with settings.
    #[arg(long, value_name = "FILE", env = "PENSTOCK_CONFIG")]
    config: Option<PathBuf>,
    /// The data directory [default: ./penstock-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The address to listen on [default: 127.0.0.1:9092].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// The address that clients connect to [default: the listen address].
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Worker threads, each with its own ring [default: one a core].
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Acknowledge records in the page cache (os) or on the disk (fsync) [default: os].
    #[arg(long, value_name = "MODE")]
    durability: Option<String>,
    /// How record bytes go out: auto, chain, sendfile or copy [default: auto].
    #[arg(long, value_name = "PATH")]
    fetch_path: Option<String>,
    /// The address of /metrics, /readers.json, /healthz, /readyz and the live page [default: none].
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
    /// Any other setting; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The format of log lines. PENSTOCK_LOG has the level (info, debug, …).
    #[arg(long, value_enum, default_value = "text", env = "PENSTOCK_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct TopicArguments {
    /// The server to ask.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", global = true)]
    pub(crate) bootstrap_server: String,
    #[command(subcommand)]
    pub(crate) action: TopicAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicAction {
    /// Creates a topic.
    Create {
        /// 1 to 249 of a-z A-Z 0-9 . _ -
        topic: String,
        /// The number of partitions; -1: the server's default.
        #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
        partitions: i32,
        /// Topic configuration under Kafka's names; may be given several times.
        #[arg(long, value_name = "KEY=VALUE")]
        config: Vec<String>,
    },
    /// Lists the topics.
    List,
    /// Shows partitions and offsets of one topic, or of all topics.
    Describe {
        /// The topic.
        topic: Option<String>,
    },
    /// Deletes a topic and its records.
    Delete {
        /// The topic.
        topic: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TopArguments {
    /// The server's --metrics address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9464")]
    pub(crate) metrics: String,
    /// The time between two tables; rates are of that time.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(crate) interval: f64,
    /// Print one table and exit.
    #[arg(long)]
    pub(crate) once: bool,
    /// The most rows of a table.
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) rows: usize,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArguments {
    /// A segment file: NNNNNNNNNNNNNNNNNNNN.log
    #[arg(value_name = "FILE.log")]
    pub(crate) file: PathBuf,
    /// Show batches only, without their records.
    #[arg(long)]
    pub(crate) batches: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScrubArguments {
    /// The data directory.
    #[arg(long, value_name = "DIR", default_value = "./penstock-data")]
    pub(crate) data_dir: PathBuf,
    /// Rebuild indexes that do not fit their batches.
    #[arg(long)]
    pub(crate) repair_indexes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AdoptArguments {
    /// The data directory.
    #[arg(long, value_name = "DIR", default_value = "./penstock-data")]
    pub(crate) data_dir: PathBuf,
    /// Show the topics and the retention of each; change nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// Only these topics.
    #[arg(value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The server's TOML file. Topics without a retention of their own get the server's.
    #[arg(long, value_name = "FILE", env = "PENSTOCK_CONFIG")]
    config: Option<PathBuf>,
    /// The data directory [default: ./penstock-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Any other setting of the server; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write the script for a new Kafka, not for the one whose metadata is in the directory.
    #[arg(long)]
    pub(crate) fresh_kafka: bool,
    /// The Kafka's address in the script.
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:9092")]
    pub(crate) bootstrap_server: String,
}

impl ExportArguments {
    /// The settings of the server.
    ///
    /// # Errors
    /// As [`ServeArguments::settings`].
    pub(crate) fn settings(
        &self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<Settings> {
        let data_dir = self.data_dir.as_deref().map(|path| ("data-dir", path));
        joined(self.config.as_deref(), environment, data_dir.into_iter(), &self.set)
    }
}

impl ServeArguments {
    /// Joins file, environment and flags.
    ///
    /// # Errors
    /// The file cannot be read; an unknown key; a value that does not fit; settings that
    /// contradict.
    pub(crate) fn settings(
        &self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<Settings> {
        joined(self.config.as_deref(), environment, self.flags(), &self.set)
    }

    fn flags(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let flags = [
            ("data-dir", &self.data_dir),
            ("listen", &self.listen),
            ("advertise", &self.advertise),
            ("workers", &self.workers),
            ("durability", &self.durability),
            ("fetch-path", &self.fetch_path),
            ("metrics", &self.metrics),
        ];
        flags.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}

/// The file, with the environment over it, with the flags over that.
fn joined<'a>(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: impl Iterator<Item = (&'static str, &'a str)>,
    pairs: &[String],
) -> anyhow::Result<Settings> {
    let mut settings = Settings::default();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        settings.set_from_toml(&text).with_context(|| format!("in {}", path.display()))?;
    }
    settings.set_from_environment(environment)?;
    for (key, value) in flags {
        settings.set(key, value)?;
    }
    for pair in pairs {
        let (key, value) = split_pair(pair)?;
        settings.set(key, value)?;
    }
    settings.check()?;
    Ok(settings)
}

/// Splits KEY=VALUE.
///
/// # Errors
/// There is no `=`.
pub(crate) fn split_pair(pair: &str) -> anyhow::Result<(&str, &str)> {
    pair.split_once('=').with_context(|| format!("`{pair}` is not KEY=VALUE"))
}

fn settings_help() -> String {
    let mut help = format!(
        "{}\nSettings. The file and --set use these keys; the environment uses PENSTOCK_ and the key in\n\
        capitals with underscores:\n",
        durability::TABLE
    );
    for (key, what) in KEYS {
        help += &format!("  {key:<35} {what}\n");
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(arguments: &[&str]) -> ServeArguments {
        let words = ["penstock", "serve"].iter().chain(arguments);
        match Arguments::try_parse_from(words).unwrap().command {
            Command::Serve(serve) => *serve,
            _ => panic!("not serve"),
        }
    }

    #[test]
    fn flags_override_the_environment_which_overrides_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "workers = 1\nnum.partitions = 1\nfetch.max.bytes = 5000")
            .unwrap();
        let path = file.path().to_str().unwrap();
        let environment = [("PENSTOCK_WORKERS", "2"), ("PENSTOCK_NUM_PARTITIONS", "2")];
        let environment = environment.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let arguments = serve(&["--config", path, "--workers", "3"]);
        let settings = arguments.settings(environment.into_iter()).unwrap();
        assert_eq!(
            (settings.workers, settings.num_partitions, settings.fetch_max_bytes),
            (3, 2, 5000)
        );
    }

    /// clap breaks longer lines, and with them the columns.
    #[test]
    fn the_help_of_settings_fits_a_terminal_of_100_columns() {
        for line in settings_help().lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
