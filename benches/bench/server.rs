//! One server under test, of any kind: starts it on the server's core, reads its figures from
//! outside, ends it.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use penstock_rig::machine::pinned;
use penstock_tests::{Penstock, Start, binary};

use crate::log::{BATCH_BYTES, Log, TOPIC};
use crate::plan::Plan;

/// The longest start. A Java virtual machine takes some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Server {
    /// The name in results.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    /// The generator's arguments for its protocol.
    pub(crate) language: Vec<String>,
    /// The log that it serves.
    pub(crate) log: Log,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Penstock(Penstock),
    Other(Other),
}

/// A process that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Other(Child);

impl Other {
    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts the raw server: epoll and sendfile, no protocol.
    ///
    /// # Errors
    /// The server does not start.
    pub(crate) fn raw(plan: &Plan, log: &Log) -> anyhow::Result<Server> {
        let mut command = Command::new(binary("penstock-raw-server"));
        command.arg(&log.segment);
        let mut command = pinned(plan.machine.cores.map(|cores| cores.server), &command);
        let mut child =
            Other(command.stdout(Stdio::piped()).spawn().context("penstock-raw-server")?);
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().context("no stdout")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("raw server listens on ").context("no address")?;
        let language = vec!["--language=raw".to_owned()];
        Ok(Server::other("raw", address.parse()?, language, log, child))
    }

    /// Starts Penstock with one fetch path and more arguments, on a link of the log.
    ///
    /// # Errors
    /// The server does not start.
    pub(crate) fn penstock(
        plan: &Plan,
        log: &Log,
        path: &str,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Server> {
        let data_dir = plan.dir.join(format!("penstock-{path}"));
        if !data_dir.exists() {
            log.linked(&data_dir)?;
        }
        let start = penstock(&data_dir, path).set(settings);
        Ok(Server::of_penstock(start_pinned(plan, &start)?, path, log))
    }

    /// A Penstock that the caller has started.
    pub(crate) fn of_penstock(penstock: Penstock, path: &str, log: &Log) -> Server {
        Server {
            name: penstock_name(path),
            address: penstock.address(),
            pid: penstock.pid(),
            language: kafka_language(log),
            log: log.clone(),
            process: Process::Penstock(penstock),
        }
    }

    /// A process that is already running.
    pub(crate) fn other(
        name: &str,
        address: SocketAddr,
        language: Vec<String>,
        log: &Log,
        process: Other,
    ) -> Server {
        let (pid, log) = (process.pid(), log.clone());
        let process = Process::Other(process);
        Server { name: name.to_owned(), address, pid, language, log, process }
    }

    /// The Penstock, if it is one.
    pub(crate) fn as_penstock(&self) -> Option<&Penstock> {
        match &self.process {
            Process::Penstock(penstock) => Some(penstock),
            Process::Other(_) => None,
        }
    }

    /// Ends the server, a Penstock by a clean stop.
    ///
    /// # Errors
    /// A Penstock does not stop cleanly.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        match self.process {
            Process::Penstock(penstock) => penstock.stop(),
            Process::Other(other) => {
                drop(other);
                Ok(())
            }
        }
    }
}

/// The name in results of a Penstock with this fetch path.
pub(crate) fn penstock_name(path: &str) -> String {
    format!("penstock {path}")
}

/// How to start one worker with one fetch path, and without limits that a bench would meet.
pub(crate) fn penstock(data_dir: &std::path::Path, path: &str) -> Start {
    Start::on(data_dir).with(&["--fetch-path", path])
}

/// Starts a Penstock on the server's core.
///
/// # Errors
/// The server does not start.
pub(crate) fn start_pinned(plan: &Plan, start: &Start) -> anyhow::Result<Penstock> {
    let mut command = Command::new(binary("penstock"));
    command.args(start.arguments());
    Penstock::start(pinned(plan.machine.cores.map(|cores| cores.server), &command))
}

/// The generator's arguments for a server of Kafka's protocol.
pub(crate) fn kafka_language(log: &Log) -> Vec<String> {
    vec![
        "--language=kafka".to_owned(),
        format!("--topic={TOPIC}"),
        format!("--batch-bytes={BATCH_BYTES}"),
        format!("--batch-records={}", log.batch_records),
    ]
}

/// Starts a command pinned to the server's core, and waits until its port takes connections. Its
/// output goes to a file.
///
/// # Errors
/// The command ends, or takes too long.
pub(crate) fn spawn(
    plan: &Plan,
    command: &Command,
    address: SocketAddr,
    output_file: &PathBuf,
) -> anyhow::Result<Other> {
    let output = std::fs::File::create(output_file)?;
    let mut command = pinned(plan.machine.cores.map(|cores| cores.server), command);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = Other(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        if let Some(status) = child.0.try_wait()? {
            bail!("{command:?} ended with {status}; {} has more", output_file.display());
        }
        if started.elapsed() > PATIENCE {
            bail!(
                "no server listens on {address} after {PATIENCE:?}; {} has more",
                output_file.display()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

/// Finds a port that was free a moment ago.
///
/// # Errors
/// There is no free port.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
