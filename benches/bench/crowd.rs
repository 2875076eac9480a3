//! Thousands of connections of this process, which send requests, wait, and read little or nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use penstock_wire::Request;
use penstock_wire::messages::{FetchPartition, FetchRequest, FetchTopic};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::log::TOPIC;

const FETCH_VERSION: i16 = 11;
/// Descriptors for this process and its servers, if the system allows them.
const DESCRIPTORS: u64 = 65_536;

/// Raises the limit of descriptors for this process and its children.
///
/// # Errors
/// The system does not allow `needed` descriptors.
pub(crate) fn allow_descriptors(needed: u64) -> anyhow::Result<()> {
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(DESCRIPTORS);
    let wanted = |count| Rlimit { current: Some(count), maximum: Some(count.max(most)) };
    if setrlimit(Resource::Nofile, wanted(DESCRIPTORS)).is_err() {
        setrlimit(Resource::Nofile, wanted(most))?;
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(allowed >= needed, "{needed} descriptors are needed, {allowed} are allowed");
    Ok(())
}

/// Opens connections that send nothing.
///
/// # Errors
/// The server does not take as many.
pub(crate) fn connect(server: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let connect = |index| {
        TcpStream::connect(server).with_context(|| format!("connection {index} of {count}"))
    };
    (0..count).map(connect).collect()
}

/// Sends one fetch on every connection and reads nothing.
///
/// # Errors
/// A connection is closed.
pub(crate) fn ask(connections: &mut [TcpStream], fetch: &FetchRequest) -> anyhow::Result<()> {
    let bytes = Request::Fetch(fetch.clone()).encode(FETCH_VERSION, 0, "crowd");
    connections.iter_mut().try_for_each(|connection| connection.write_all(&bytes))?;
    Ok(())
}

/// A fetch of the bench's partition.
pub(crate) fn fetch(offset: u64, max_bytes: i32, max_wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition {
        fetch_offset: offset as i64,
        partition_max_bytes: max_bytes,
        ..FetchPartition::default()
    };
    let topics = [FetchTopic { topic: TOPIC.into(), partitions: [partition].into() }].into();
    FetchRequest { max_wait_ms, min_bytes: 1, max_bytes, topics, ..FetchRequest::default() }
}

/// Reads `bytes` from every connection once in each `period` until stopped. Skips closed ones.
///
/// # Errors
/// A socket cannot be made non-blocking.
pub(crate) fn sip(
    connections: &mut [TcpStream],
    bytes: usize,
    period: Duration,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    for connection in connections.iter() {
        connection.set_nonblocking(true)?;
    }
    let mut sip = vec![0; bytes];
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for connection in connections.iter_mut() {
            // The socket is empty or closed. The next look comes a period later, and costs nothing.
            let _ = connection.read(&mut sip);
        }
        next += period;
        while Instant::now() < next && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}
