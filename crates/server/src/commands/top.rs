//! `penstock top`: who reads what from a running server, live in a terminal.
//!
//! ```text
//!   GET /readers.json ──► Sample ──┐
//!        (interval)                ├──► table (pure) ──► stdout
//!   GET /readers.json ──► Sample ──┘
//! ```
//!
//! Rates are the difference of two samples. Asks the address of `--metrics`, and knows nothing of
//! the server but what that answers. Names come from clients, so control characters never reach the
//! terminal.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::commands::cli::TopArguments;

/// The longest wait for a connection, or for the next bytes of an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer is refused beyond it: as many readers and groups as a server shows are far less.
const ANSWER_MAX_BYTES: u64 = 64 << 20;

/// Clears the terminal and goes to its top.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// The longest name that is shown whole.
const NAME_MAX_CHARS: usize = 32;

/// What /readers.json answers.
#[derive(Debug, Clone, Default, Deserialize)]
struct Answer {
    readers: Vec<Reader>,
    groups: Vec<Lag>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Reader {
    client_id: String,
    group: Option<String>,
    topic: String,
    partition: i32,
    behind_bytes: u64,
    behind_records: u64,
    behind_seconds: Option<f64>,
    path: String,
    sent_bytes: u64,
    cold_bytes: u64,
    disk_wait: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Lag {
    group: String,
    topic: String,
    partition: i32,
    committed_offset: i64,
    log_end_offset: i64,
    lag_records: u64,
    lag_seconds: Option<f64>,
}

/// An answer and when it came.
struct Sample {
    answer: Answer,
    at: Instant,
}

/// Runs the command until it is interrupted, or once.
///
/// # Errors
/// The address does not answer, or not as a server's.
pub(crate) fn run(arguments: &TopArguments) -> anyhow::Result<()> {
    let interval = Duration::try_from_secs_f64(arguments.interval)
        .ok()
        .filter(|interval| !interval.is_zero())
        .with_context(|| format!("--interval {} is no time to wait", arguments.interval))?;
    let mut before = sample(&arguments.metrics)?;
    loop {
        std::thread::sleep(interval);
        let now = sample(&arguments.metrics)?;
        let table = table(&arguments.metrics, &before, &now, arguments.rows);
        let clear = if arguments.once { "" } else { CLEAR };
        let shown = write!(std::io::stdout(), "{clear}{table}");
        match shown.and_then(|()| std::io::stdout().flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            shown => shown.context("cannot write the table")?,
        }
        if arguments.once {
            return Ok(());
        }
        before = now;
    }
}

fn sample(address: &str) -> anyhow::Result<Sample> {
    let body = get(address, "/readers.json")
        .with_context(|| format!("{address} does not answer as a server's --metrics address"))?;
    let answer = serde_json::from_slice(&body)
        .with_context(|| format!("{address} answers /readers.json with something else"))?;
    Ok(Sample { answer, at: Instant::now() })
}

/// The body of an answer with status 200.
fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX_BYTES + 1).read_to_end(&mut answer)?;
    if answer.len() as u64 > ANSWER_MAX_BYTES {
        bail!("the answer has more than {ANSWER_MAX_BYTES} bytes");
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let head = String::from_utf8_lossy(&answer[..end.context("no HTTP answer")?]).into_owned();
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("the answer is {:?}", plain(status));
    }
    Ok(answer.split_off(end.unwrap_or_default() + 4))
}

fn connect(address: &str) -> anyhow::Result<TcpStream> {
    let mut failed = None;
    for resolved in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&resolved, TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.map_or_else(|| anyhow::anyhow!("no address"), anyhow::Error::from))
}

/// A reader with its rates, in bytes a second.
struct Row<'a> {
    reader: &'a Reader,
    disk_rate: f64,
    sent_rate: f64,
}

/// Both tables as text.
fn table(address: &str, before: &Sample, now: &Sample, rows_max: usize) -> String {
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
    let rows = rows(&before.answer, &now.answer, seconds);
    let rate = |of: fn(&Row<'_>) -> f64| rows.iter().map(of).sum::<f64>() / 1e6;
    let mut text = format!(
        "penstock at {address}: {} readers, {:.1} MB/s from disk, {:.1} MB/s sent\n\n",
        rows.len(),
        rate(|row| row.disk_rate),
        rate(|row| row.sent_rate),
    );
    let head = [
        "CLIENT",
        "GROUP",
        "PARTITION",
        "PATH",
        "DISK MB/s",
        "SENT MB/s",
        "DISK MB",
        "WAIT s",
        "BEHIND MB",
        "RECORDS",
        "TIME",
    ];
    write_rows(&mut text, &head, 4, rows.iter().take(rows_max).map(|row| cells(row).to_vec()));
    note_left_out(&mut text, rows.len(), rows_max);
    let mut lags: Vec<_> = now.answer.groups.iter().collect();
    lags.sort_by_key(|lag| std::cmp::Reverse(lag.lag_records));
    text.push('\n');
    let head = ["GROUP", "PARTITION", "COMMITTED", "LOG END", "LAG", "TIME"];
    write_rows(&mut text, &head, 2, lags.iter().take(rows_max).map(|lag| lag_cells(lag).to_vec()));
    note_left_out(&mut text, lags.len(), rows_max);
    text
}

/// Readers by what they read from the disk now, then by what they have read so far.
fn rows<'a>(before: &'a Answer, now: &'a Answer, seconds: f64) -> Vec<Row<'a>> {
    let key = |reader: &'a Reader| (&*reader.client_id, &*reader.topic, reader.partition);
    let earlier: HashMap<_, _> =
        before.readers.iter().map(|reader| (key(reader), reader)).collect();
    let row = |reader: &'a Reader| {
        let was = earlier.get(&key(reader));
        let rate = |of: fn(&Reader) -> u64| {
            let more = of(reader).saturating_sub(was.map_or(0, |was| of(was)));
            if seconds > 0.0 { more as f64 / seconds } else { 0.0 }
        };
        Row { reader, disk_rate: rate(|r| r.cold_bytes), sent_rate: rate(|r| r.sent_bytes) }
    };
    let mut rows: Vec<Row<'_>> = now.readers.iter().map(row).collect();
    rows.sort_by(|a, b| {
        let by_disk = b.disk_rate.total_cmp(&a.disk_rate);
        let by_total = b.reader.cold_bytes.cmp(&a.reader.cold_bytes);
        by_disk.then(by_total).then(b.sent_rate.total_cmp(&a.sent_rate))
    });
    rows
}

fn cells(row: &Row<'_>) -> [String; 11] {
    let Row { reader, disk_rate, sent_rate } = row;
    let mega = |bytes: f64| format!("{:.1}", bytes / 1e6);
    [
        name(&reader.client_id),
        reader.group.as_deref().map_or_else(|| "-".to_owned(), name),
        format!("{}-{}", name(&reader.topic), reader.partition),
        name(&reader.path),
        mega(*disk_rate),
        mega(*sent_rate),
        mega(reader.cold_bytes as f64),
        format!("{:.1}", reader.disk_wait),
        mega(reader.behind_bytes as f64),
        reader.behind_records.to_string(),
        time(reader.behind_seconds),
    ]
}

fn lag_cells(lag: &Lag) -> [String; 6] {
    [
        name(&lag.group),
        format!("{}-{}", name(&lag.topic), lag.partition),
        lag.committed_offset.to_string(),
        lag.log_end_offset.to_string(),
        lag.lag_records.to_string(),
        time(lag.lag_seconds),
    ]
}

/// Writes columns as wide as their widest cell: names to the left, numbers to the right.
fn write_rows(
    text: &mut String,
    head: &[&str],
    names: usize,
    rows: impl Iterator<Item = Vec<String>>,
) {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column < names {
                true => write!(line, "{cell:<width$}  "),
                false => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn note_left_out(text: &mut String, all: usize, shown_max: usize) {
    if all > shown_max {
        let _ = writeln!(text, "… and {} more", all - shown_max);
    }
}

/// A duration as people read it; `-`: not known.
fn time(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else { return "-".to_owned() };
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// A name without what a terminal would obey, cut if it is long.
fn name(name: &str) -> String {
    let plain = plain(name);
    match plain.char_indices().nth(NAME_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &plain[..end]),
        None if plain.is_empty() => "\"\"".to_owned(),
        None => plain,
    }
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(client_id: &str, cold_bytes: u64, sent_bytes: u64) -> Reader {
        let (client_id, topic, path) = (client_id.to_owned(), "t".to_owned(), "chain".to_owned());
        Reader { client_id, topic, path, cold_bytes, sent_bytes, ..Reader::default() }
    }

    fn sample(readers: &[Reader], at: Instant) -> Sample {
        let lag = Lag { group: "g".to_owned(), lag_records: 7, ..Lag::default() };
        Sample { answer: Answer { readers: readers.to_vec(), groups: vec![lag] }, at }
    }

    #[test]
    fn who_reads_most_from_the_disk_now_is_first() {
        let at = Instant::now();
        let before =
            [reader("hot", 0, 0), reader("was-cold", 900_000_000, 0), reader("cold", 0, 0)];
        let now = [
            reader("hot", 0, 500_000_000),
            reader("was-cold", 900_000_000, 0),
            reader("cold", 40_000_000, 40_000_000),
        ];
        let after = at + Duration::from_secs(2);
        let text = table("h:1", &sample(&before, at), &sample(&now, after), 30);
        let clients: Vec<&str> =
            text.lines().skip(3).take(3).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(clients, ["cold", "was-cold", "hot"], "{text}");
        assert!(text.starts_with("penstock at h:1: 3 readers, 20.0 MB/s from disk, 270.0 MB/s"));
        let shorter = table("h:1", &sample(&before, at), &sample(&now, after), 1);
        assert!(shorter.contains("… and 2 more"), "{shorter}");
    }

    #[test]
    fn what_a_client_chose_as_its_name_does_not_reach_the_terminal_as_a_command() {
        let readers = [reader("\x1b[2Jgone\n", 1, 1), reader(&"x".repeat(64), 1, 1)];
        let at = Instant::now();
        let text = table("h:1", &sample(&[], at), &sample(&readers, at), 30);
        assert!(text.contains("?[2Jgone?") && !text.contains('\x1b'), "{text}");
        assert!(text.contains(&format!("{}…", "x".repeat(NAME_MAX_CHARS))), "{text}");
    }

    #[test]
    fn times_are_short() {
        let shown = [Some(0.0), Some(59.94), Some(61.0), Some(7380.0), Some(180_000.0), None];
        let expected = ["0.0s", "59.9s", "1m01s", "2h03m", "2d02h", "-"];
        assert_eq!(shown.map(time), expected);
    }

    #[test]
    fn an_address_that_does_not_answer_is_a_clear_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let Err(error) = super::sample(&address) else { panic!("it answered") };
        let text = format!("{error:#}");
        assert!(text.starts_with(&format!("{address} does not answer as a server's --metrics")));
        assert!(text.contains("refused"), "{text}");
    }
}
