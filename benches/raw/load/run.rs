//! The loop: who is due asks, who has an answer receives, until the time is over.
//!
//! Open loop: fetches become due at a fixed rate and wait in line for a free reader, and a fetch's
//! latency counts from when it was due (no coordinated omission). What is unanswered at the end counts
//! with its age, so a server that fell behind does not look quick.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::arguments::Arguments;
use crate::connection::{Connection, Cursor, DROP_AT_ONCE_BYTES};
use crate::evict::Evict;
use crate::protocol::Protocol;
use crate::tally::Tally;

const EVENTS_AT_ONCE: usize = 256;
/// A closed loop without any answer looks at the clock so often.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What a run found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) hot: Tally,
    pub(crate) cold: Tally,
    /// Fetches that were due and had no answer at the end.
    pub(crate) backlog: usize,
    pub(crate) measured_s: f64,
    pub(crate) whole_s: f64,
    pub(crate) fetches_with_warm_up: u64,
    pub(crate) bytes_with_warm_up: u64,
}

struct Run<'a> {
    arguments: &'a Arguments,
    protocol: Protocol,
    evict: Evict,
    epoll: OwnedFd,
    /// Hot ones first.
    connections: Vec<Connection>,
    measured_from: Instant,
    free: Vec<usize>,
    due: VecDeque<Instant>,
    outcome: Outcome,
}

/// Connects, evicts, runs, and looks at what is left.
///
/// # Errors
/// The server cannot be reached, closes a connection, or answers anything but the range asked for.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let mut run = Run::prepare(arguments)?;
    let started = Instant::now();
    run.measured_from = started + Duration::from_secs_f64(arguments.warm_up);
    let end = run.measured_from + Duration::from_secs_f64(arguments.seconds);
    run.go(started, end)?;
    let stopped = Instant::now();
    run.outcome.measured_s = (stopped - run.measured_from).as_secs_f64();
    run.outcome.whole_s = (stopped - started).as_secs_f64();
    run.count_unanswered(stopped);
    Ok(run.outcome)
}

impl<'a> Run<'a> {
    fn prepare(arguments: &'a Arguments) -> anyhow::Result<Run<'a>> {
        let protocol = arguments.protocol()?;
        let (hot, cold) = (arguments.connections as usize, arguments.cold_connections as usize);
        let mut cursors = Cursor::spread(arguments.part.clone(), arguments.fetch_bytes, hot)?;
        if cold > 0 {
            let part = arguments.cold_part.clone();
            let readers = Cursor::spread(part, arguments.cold_fetch_bytes, cold)?;
            cursors.extend(readers.into_iter().map(Cursor::scattered));
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(cursors.len());
        for (key, cursor) in cursors.into_iter().enumerate() {
            let connection = Connection::open(arguments.server, &protocol, cursor)?;
            let data = EventData::new_u64(key as u64);
            epoll::add(&epoll, connection.stream(), data, EventFlags::IN)?;
            connections.push(connection);
        }
        let evict = Evict::begin(arguments.evict.as_deref(), &arguments.cold_part)?;
        Ok(Run {
            arguments,
            protocol,
            evict,
            epoll,
            connections,
            measured_from: Instant::now(),
            free: (0..hot).collect(),
            due: VecDeque::new(),
            outcome: Outcome::new(),
        })
    }

    fn is_open_loop(&self) -> bool {
        self.arguments.rate > 0.0
    }

    fn is_hot(&self, key: usize) -> bool {
        key < self.arguments.connections as usize
    }

    fn go(&mut self, started: Instant, end: Instant) -> anyhow::Result<()> {
        let first = if self.is_open_loop() { self.arguments.connections as usize } else { 0 };
        for key in first..self.connections.len() {
            self.connections[key].ask(&self.protocol, started)?;
        }
        let wait = if self.is_open_loop() { NO_WAIT } else { PATIENCE };
        let mut nowhere = vec![0; DROP_AT_ONCE_BYTES];
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut made_due = 0_u64;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if self.is_open_loop() {
                self.make_due(started, now, &mut made_due);
                self.ask_what_is_due()?;
            }
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, Some(&wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let key = event.data.u64() as usize;
                if self.connections[key].receive(&self.protocol, &mut nowhere)? {
                    self.answered(key)?;
                }
            }
        }
    }

    /// The n-th fetch is due n gaps after the start: rounding does not add up.
    fn make_due(&mut self, started: Instant, now: Instant, made: &mut u64) {
        loop {
            let due = started + Duration::from_secs_f64(*made as f64 / self.arguments.rate);
            if due > now {
                return;
            }
            self.due.push_back(due);
            *made += 1;
        }
    }

    fn ask_what_is_due(&mut self) -> anyhow::Result<()> {
        while let (Some(key), Some(due)) = (self.free.last().copied(), self.due.front().copied()) {
            self.connections[key].ask(&self.protocol, due)?;
            self.free.pop();
            self.due.pop_front();
        }
        Ok(())
    }

    fn answered(&mut self, key: usize) -> anyhow::Result<()> {
        let now = Instant::now();
        let (asked, since) = (self.connections[key].asked(), self.connections[key].since());
        self.outcome.fetches_with_warm_up += 1;
        self.outcome.bytes_with_warm_up += u64::from(asked.len_bytes);
        let is_hot = self.is_hot(key);
        if now >= self.measured_from {
            let tally = if is_hot { &mut self.outcome.hot } else { &mut self.outcome.cold };
            tally.done(asked.len_bytes, now - since);
        }
        if !is_hot {
            self.evict.range(asked.position, asked.len_bytes.into())?;
        }
        if is_hot && self.is_open_loop() {
            self.free.push(key);
            Ok(())
        } else {
            self.connections[key].ask(&self.protocol, now)
        }
    }

    fn count_unanswered(&mut self, stopped: Instant) {
        if !self.is_open_loop() {
            return;
        }
        let hot = self.arguments.connections as usize;
        let asked = (0..hot).filter(|key| !self.free.contains(key));
        let since = asked.map(|key| self.connections[key].since()).chain(self.due.iter().copied());
        for since in since {
            self.outcome.hot.late(stopped - since);
            self.outcome.backlog += 1;
        }
    }
}

impl Outcome {
    fn new() -> Outcome {
        Outcome {
            hot: Tally::new(),
            cold: Tally::new(),
            backlog: 0,
            measured_s: 0.0,
            whole_s: 0.0,
            fetches_with_warm_up: 0,
            bytes_with_warm_up: 0,
        }
    }
}
