//! A server process: starts it, reads its metrics, stops or kills it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::Client;

/// The longest start or stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Start {
    data_dir: PathBuf,
    arguments: Vec<String>,
}

/// A running server. Dropping it kills the process.
#[derive(Debug)]
pub struct Penstock {
    child: Child,
    address: SocketAddr,
    metrics: SocketAddr,
}

/// The text of /metrics at one moment.
#[derive(Debug, Clone)]
pub struct Metrics(String);

/// The path of a binary of the workspace, as built by `make build`.
pub fn binary(name: &str) -> PathBuf {
    match std::env::var_os("PENSTOCK_BIN") {
        Some(server) => PathBuf::from(server).with_file_name(name),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release").join(name),
    }
}

/// A command that runs a binary of the workspace, without the variables of the tests: the server
/// refuses them as unknown settings.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    without_own_variables(&mut command);
    command
}

fn without_own_variables(command: &mut Command) {
    for own in ["PENSTOCK_SOAK", "PENSTOCK_SEED", "PENSTOCK_SEEDS", "PENSTOCK_BENCH"] {
        command.env_remove(own);
    }
}

impl Start {
    /// A start on this data directory, with one worker and any port.
    pub fn on(data_dir: &Path) -> Start {
        Start { data_dir: data_dir.to_owned(), arguments: Vec::new() }.with(&["--workers", "1"])
    }

    /// Adds arguments. Each flag may be given only once.
    pub fn with(mut self, arguments: &[&str]) -> Start {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Adds settings.
    pub fn set(self, pairs: &[(&str, &str)]) -> Start {
        pairs
            .iter()
            .fold(self, |start, (key, value)| start.with(&["--set", &format!("{key}={value}")]))
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    /// The server ends, or does not listen in time.
    pub fn start(&self) -> anyhow::Result<Penstock> {
        let mut command = program("penstock");
        command.args(self.arguments());
        Penstock::start(command)
    }

    /// Starts the server with its log of this level (info, warn, …) in the file `lines`.
    ///
    /// # Errors
    /// As [`Start::start`], or the file cannot be made.
    pub fn start_with_log(&self, level: &str, lines: &Path) -> anyhow::Result<Penstock> {
        let mut command = program("penstock");
        command.args(self.arguments()).env("PENSTOCK_LOG", level);
        command.stderr(std::fs::File::create(lines)?);
        Penstock::start(command)
    }

    /// The server's command line, for a test that starts it by another command.
    pub fn arguments(&self) -> Vec<String> {
        let data_dir = self.data_dir.display().to_string();
        let usual = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
            "--data-dir",
            &data_dir,
        ];
        // Test machines have smaller disks than those that the reserve is meant for.
        let reserve = ["--set", "disk.reserve.bytes=0", "--set", "disk.reserve.percent=0"];
        let usual = usual.into_iter().chain(reserve).map(str::to_owned);
        usual.chain(self.arguments.iter().cloned()).collect()
    }
}

impl Penstock {
    /// Starts a command that becomes the server, and waits until it listens.
    ///
    /// # Errors
    /// The server ends, or does not listen in time.
    pub fn start(mut command: Command) -> anyhow::Result<Penstock> {
        without_own_variables(&mut command);
        let is_set = command.get_envs().any(|(name, _)| name == "PENSTOCK_LOG");
        if !is_set && std::env::var_os("PENSTOCK_LOG").is_none() {
            command.env("PENSTOCK_LOG", "error");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?} (is it built? `make build`)"))?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let (mut address, mut metrics) = (None, None);
        while address.is_none() || metrics.is_none() {
            let Some(line) = lines.next() else {
                bail!("the server ended before it listened: {}", child.wait()?);
            };
            let line = line?;
            if let Some(rest) = line.strip_prefix("penstock listens on ") {
                address = rest.split(';').next().and_then(|address| address.parse().ok());
            } else if let Some(rest) = line.strip_prefix("metrics at http://") {
                metrics = rest.trim_end_matches("/metrics").parse().ok();
            }
        }
        let (address, metrics) = (address.context("no address")?, metrics.context("no metrics")?);
        Ok(Penstock { child, address, metrics })
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects a new client.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(self.address)?)
    }

    /// Reads /metrics.
    ///
    /// # Errors
    /// The server cannot be reached, or its answer is not 200.
    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        Ok(Metrics(self.get("/metrics")?))
    }

    /// The body of /readyz, if its answer is 200.
    ///
    /// # Errors
    /// The server cannot be reached, or its answer is not 200.
    pub fn readiness(&self) -> anyhow::Result<String> {
        let answer = self.get("/readyz")?;
        Ok(answer.split_once("\r\n\r\n").context("no body")?.1.to_owned())
    }

    /// The address of /metrics and its like.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.metrics)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        if !text.starts_with("HTTP/1.1 200") {
            bail!("not a good answer: {text}");
        }
        Ok(text)
    }

    /// Reads /metrics again and again until `is_so` holds.
    ///
    /// # Errors
    /// It does not hold within a minute, or the server cannot be reached.
    pub fn until_metrics(
        &self,
        what: &str,
        is_so: impl Fn(&Metrics) -> bool,
    ) -> anyhow::Result<Metrics> {
        until(what, || Ok(Some(self.metrics()?).filter(&is_so)))
    }

    /// Threads of the process, kernel workers included.
    ///
    /// # Errors
    /// The process is gone.
    pub fn threads(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/task", self.pid()))?.count())
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// Peak of resident memory since [`Penstock::forget_peak`].
    ///
    /// # Errors
    /// It runs no more.
    pub fn peak_bytes(&self) -> anyhow::Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// Resets the peak to the resident memory of now (proc_pid_clear_refs(5)).
    ///
    /// # Errors
    /// It runs no more.
    pub fn forget_peak(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5")?)
    }

    fn status_bytes(&self, key: &'static str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).context(key)?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGKILL and waits until the process is gone.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGSTOP and waits until no thread runs. Answers that clients receive later were sent
    /// before.
    ///
    /// # Errors
    /// The process is gone, or does not stop in time.
    pub fn freeze(&self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        until("the server stands still", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()))?;
            let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
                let status = std::fs::read_to_string(task?.path().join("status"))?;
                // Kernel workers of a ring are threads of the process and do not stop. They send no
                // answers.
                Ok(status.contains("State:\tT") || status.starts_with("Name:\tiou-"))
            };
            let stopped = tasks.map(is_stopped).collect::<std::io::Result<Vec<bool>>>()?;
            Ok(stopped.into_iter().all(|is_stopped| is_stopped).then_some(()))
        })
    }

    /// Sends SIGTERM and waits for a clean end.
    ///
    /// # Errors
    /// The process does not end in time, or its exit code is not 0.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = until("the server ends", || Ok(self.child.try_wait()?))?;
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Penstock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Metrics {
    /// How many series begin with this.
    pub fn count(&self, start: &str) -> usize {
        self.0.lines().filter(|line| line.starts_with(start)).count()
    }

    /// The sum of all series that begin with this.
    pub fn sum(&self, start: &str) -> f64 {
        let lines = self.0.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The value of a series as it is, if it is there.
    pub fn exact(&self, series: &str) -> Option<f64> {
        let mut lines = self.0.lines().filter_map(|line| line.strip_prefix(series));
        lines.find_map(|rest| rest.trim().parse().ok())
    }

    /// The value of a series, with its labels as in the text. 0 if there is none.
    pub fn value(&self, series: &str) -> u64 {
        let mut lines = self.0.lines().filter_map(|line| line.strip_prefix(series));
        lines.find_map(|rest| rest.trim().parse::<f64>().ok()).unwrap_or(0.0) as u64
    }
}

/// Calls `ask` again and again until it returns a value.
///
/// # Errors
/// There is no value within a minute, or a call fails.
pub(crate) fn until<T>(
    what: &str,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if started.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} until {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
