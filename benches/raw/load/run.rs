//! The loop: each reader with an answer receives it and requests the next range, until time is
//! over.

use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::arguments::Arguments;
use crate::connection::{Connection, Cursor, DROP_AT_ONCE_BYTES};
use crate::protocol::Protocol;
use crate::tally::Tally;

const EVENTS_AT_ONCE: usize = 256;
/// Time between two looks at the clock while no answer comes.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) measured_s: f64,
    pub(crate) whole_s: f64,
    pub(crate) fetches_with_warm_up: u64,
    pub(crate) bytes_with_warm_up: u64,
}

struct Run {
    protocol: Protocol,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    measured_from: Instant,
    outcome: Outcome,
}

/// Connects, runs, and returns the result.
///
/// # Errors
/// The server cannot be reached, closes a connection, or answers anything but the requested range.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let mut run = Run::prepare(arguments)?;
    let started = Instant::now();
    run.measured_from = started + Duration::from_secs_f64(arguments.warm_up);
    let end = run.measured_from + Duration::from_secs_f64(arguments.seconds);
    run.go(started, end)?;
    let stopped = Instant::now();
    run.outcome.measured_s = (stopped - run.measured_from).as_secs_f64();
    run.outcome.whole_s = (stopped - started).as_secs_f64();
    Ok(run.outcome)
}

impl Run {
    fn prepare(arguments: &Arguments) -> anyhow::Result<Run> {
        let protocol = arguments.protocol()?;
        let readers = arguments.connections as usize;
        let cursors = Cursor::spread(arguments.part.clone(), arguments.fetch_bytes, readers)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(readers);
        for (key, cursor) in cursors.into_iter().enumerate() {
            let connection = Connection::open(arguments.server, &protocol, cursor)?;
            let data = EventData::new_u64(key as u64);
            epoll::add(&epoll, connection.stream(), data, EventFlags::IN)?;
            connections.push(connection);
        }
        let outcome = Outcome {
            tally: Tally::new(),
            measured_s: 0.0,
            whole_s: 0.0,
            fetches_with_warm_up: 0,
            bytes_with_warm_up: 0,
        };
        Ok(Run { protocol, epoll, connections, measured_from: Instant::now(), outcome })
    }

    fn go(&mut self, started: Instant, end: Instant) -> anyhow::Result<()> {
        for connection in &mut self.connections {
            connection.ask(&self.protocol, started)?;
        }
        let mut nowhere = vec![0; DROP_AT_ONCE_BYTES];
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        while Instant::now() < end {
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, Some(&PATIENCE)) {
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
        Ok(())
    }

    fn answered(&mut self, key: usize) -> anyhow::Result<()> {
        let (now, connection) = (Instant::now(), &mut self.connections[key]);
        let asked = connection.asked();
        self.outcome.fetches_with_warm_up += 1;
        self.outcome.bytes_with_warm_up += u64::from(asked.len_bytes);
        if now >= self.measured_from {
            self.outcome.tally.done(asked.len_bytes, now - connection.since());
        }
        connection.ask(&self.protocol, now)
    }
}
