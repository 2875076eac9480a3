//! The use of a running server so far, seen from outside: processor time, switches, bytes sent.
//!
//! A bench takes a [`Reading`] before and after a load, and divides the difference by the gigabytes
//! sent in between. Parsing is separate from reading, and tested.

use std::fs;
use std::ops::Sub;
use std::process::{Command, Stdio};

use anyhow::Context;
use penstock_tests::{Metrics, Penstock};

/// Bytes of a GB in all benches.
pub const GB: f64 = 1e9;

const PERF_EVENTS: &str = "raw_syscalls:sys_enter,context-switches";

/// Totals since the server's start.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// User and system time of all threads, io_uring's kernel workers included.
    cpu_s: f64,
    /// Context switches of living threads. A kernel worker that has ended takes its count along.
    switches: u64,
    sent: SentBytes,
}

/// Record bytes sent, by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentBytes {
    /// Bytes copied through the server's memory.
    pub copy: u64,
    /// Bytes sent by sendfile on the event loop.
    pub sendfile: u64,
    /// Bytes sent by linked splices.
    pub chain: u64,
}

/// The use between two readings.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// User and system time of all threads.
    pub cpu_s: f64,
    /// Context switches of living threads.
    pub switches: u64,
    /// Record bytes sent.
    pub sent: SentBytes,
}

/// Counts of perf in a server during a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerfCounts {
    /// Of all its threads.
    pub system_calls: u64,
    /// Of all its threads.
    pub switches: u64,
}

impl Reading {
    /// Reads the totals of a Penstock now.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(server: &Penstock) -> anyhow::Result<Reading> {
        let sent = SentBytes::from(&server.metrics()?);
        Ok(Reading { cpu_s: cpu_s(server.pid())?, switches: switches_of(server.pid())?, sent })
    }
}

/// Processor seconds of a process so far: user and system, all threads, io_uring's included.
///
/// # Errors
/// It is gone.
pub fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("not a process: {stat}"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Bytes of memory that processes could have without swapping: idle memory and page cache.
///
/// # Errors
/// The kernel does not report it.
pub fn available_memory_bytes() -> anyhow::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    Ok(kib_of(&meminfo, "MemAvailable:").context("no MemAvailable")? << 10)
}

/// Resident memory of a process, in bytes, now and at its peak.
///
/// # Errors
/// It is gone.
pub fn resident_bytes(pid: u32) -> anyhow::Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name| kib_of(&status, name).with_context(|| format!("no {name}"));
    Ok((kib("VmRSS:")? << 10, kib("VmHWM:")? << 10))
}

impl Sub for Reading {
    type Output = Used;

    fn sub(self, before: Reading) -> Used {
        Used {
            cpu_s: self.cpu_s - before.cpu_s,
            switches: self.switches.saturating_sub(before.switches),
            sent: SentBytes {
                copy: self.sent.copy - before.sent.copy,
                sendfile: self.sent.sendfile - before.sent.sendfile,
                chain: self.sent.chain - before.sent.chain,
            },
        }
    }
}

impl From<&Metrics> for SentBytes {
    fn from(metrics: &Metrics) -> SentBytes {
        let of = |path| metrics.value(&format!("penstock_sent_bytes_total{{path=\"{path}\"}}"));
        SentBytes { copy: of("copy"), sendfile: of("sendfile"), chain: of("chain") }
    }
}

impl SentBytes {
    /// The sum of all paths.
    pub fn total_gb(&self) -> f64 {
        (self.copy + self.sendfile + self.chain) as f64 / GB
    }

    /// The path that all bytes took, if there is one.
    pub fn only_path(&self) -> Option<&'static str> {
        match (self.copy, self.sendfile, self.chain) {
            (1.., 0, 0) => Some("copy"),
            (0, 1.., 0) => Some("sendfile"),
            (0, 0, 1..) => Some("chain"),
            _ => None,
        }
    }

    /// Share of the bytes that went through the server's memory.
    pub fn user_space_share(&self) -> f64 {
        self.copy as f64 / GB / self.total_gb()
    }
}

/// Whether perf can count: it must be installed, and tracing allowed.
pub fn perf_works() -> bool {
    let mut probe = Command::new("perf");
    probe.args(["stat", "--event", PERF_EVENTS, "--", "true"]);
    let probe = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// A command that runs another one while perf counts in the process, and writes the counts to a
/// file.
pub fn under_perf(pid: u32, output: &std::path::Path, counted: &Command) -> Command {
    let mut perf = Command::new("perf");
    perf.args(["stat", "--field-separator", ",", "--event", PERF_EVENTS]);
    perf.args(["--pid", &pid.to_string(), "--output"]).arg(output).arg("--");
    perf.env("LC_ALL", "C").arg(counted.get_program()).args(counted.get_args());
    perf
}

/// utime + stime of a line of /proc/PID/stat (proc_pid_stat(5), fields 14 and 15).
///
/// The name, field 2, may hold blanks and parentheses, so the numbers begin after the last
/// parenthesis.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, numbers) = stat.rsplit_once(')')?;
    let mut fields = numbers.split_ascii_whitespace().skip(14 - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Reads the output of `perf stat --field-separator ,`. `None`: an event was not counted.
pub fn perf_counts(output: &str) -> Option<PerfCounts> {
    let count = |event: &str| {
        let line = output.lines().find(|line| line.split(',').nth(2) == Some(event))?;
        line.split(',').next()?.parse().ok()
    };
    Some(PerfCounts {
        system_calls: count("raw_syscalls:sys_enter")?,
        switches: count("context-switches")?,
    })
}

/// Context switches of a process's living threads so far.
///
/// # Errors
/// It is gone.
pub fn switches_of(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A kernel worker may end between listing and reading.
        if let Ok(status) = fs::read_to_string(thread?.path().join("status")) {
            sum += switches(&status);
        }
    }
    Ok(sum)
}

fn kib_of(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Voluntary and other switches of a /proc/PID/task/TID/status.
fn switches(status: &str) -> u64 {
    let lines = status.lines().filter_map(|line| line.split_once("_ctxt_switches:"));
    lines.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_user_and_system_ticks_even_behind_a_strange_name() {
        let stat = "7073 (a) S 1 (b) S 7067 7067 8660 0 -1 4194304 402 0 3 0 12 169 5 6 20 0 12";
        assert_eq!(cpu_ticks(stat), Some(12 + 169));
        assert_eq!(cpu_ticks("7073 (short) S 1 2"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn perf_output_gives_both_counts_or_none() {
        let counted = "# started on Tue\n\n83150,,raw_syscalls:sys_enter,1820728084,100.00,,\n\
                       15427,,context-switches,1820728084,100.00,,\n";
        let expected = PerfCounts { system_calls: 83150, switches: 15427 };
        assert_eq!(perf_counts(counted), Some(expected));
        let refused = counted.replace("83150", "<not counted>");
        assert_eq!(perf_counts(&refused), None);
        assert_eq!(perf_counts("15427,,context-switches,1820728084,100.00,,"), None);
    }

    #[test]
    fn switches_of_both_kinds_are_added() {
        let status = "Name:\tpenstock\nvoluntary_ctxt_switches:\t7474\n\
                      nonvoluntary_ctxt_switches:\t175\n";
        assert_eq!(switches(status), 7649);
        assert_eq!(switches("Name:\tpenstock\n"), 0);
    }

    #[test]
    fn memory_is_read_in_kib() {
        let status = "VmHWM:\t  812 kB\nVmRSS:\t  64 kB\n";
        assert_eq!((kib_of(status, "VmHWM:"), kib_of(status, "VmRSS:")), (Some(812), Some(64)));
        assert_eq!(kib_of(status, "VmSwap:"), None);
    }

    #[test]
    fn only_copied_bytes_count_as_user_space() {
        let sent = SentBytes { copy: 1_000_000_000, sendfile: 0, chain: 3_000_000_000 };
        assert_eq!(sent.total_gb(), 4.0);
        assert_eq!(sent.user_space_share(), 0.25);
        assert_eq!(sent.only_path(), None);
        assert_eq!(SentBytes { copy: 0, ..sent }.only_path(), Some("chain"));
    }
}
