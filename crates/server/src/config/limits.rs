//! Every fixed limit of the server, with its name and unit, and the relations between limits.
//!
//! What an operator may set is in [`crate::config::settings`]; many of its defaults are here.

/// The largest frame unless configured: Kafka's `socket.request.max.bytes`.
pub(crate) const FRAME_MAX_BYTES: u32 = 100 * MIB;

/// The largest fetch answer in record bytes, whatever the client asks for: Kafka's
/// `fetch.max.bytes`.
pub(crate) const FETCH_MAX_BYTES: u64 = 55 * MIB as u64;

/// One record batch unless the topic says otherwise: Kafka's `message.max.bytes`.
pub(crate) const BATCH_MAX_BYTES: usize = MIB as usize + 12;

/// Request bytes in memory, all connections together: `queued.max.request.bytes`.
pub(crate) const REQUESTS_IN_FLIGHT_MAX_BYTES: u32 = 256 * MIB;

/// The least value of that setting, and what a small memory limit leaves: a batch.
pub(crate) const REQUESTS_IN_FLIGHT_LEAST_BYTES: u32 = 2 * MIB;

/// Connections at once, as far as descriptors suffice: `max.connections`.
pub(crate) fn connections_max() -> usize {
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    open_files.map_or(10_000, |files| (files / 4).clamp(1, 10_000) as usize)
}

/// The least receive buffer of a connection between requests. It holds a usual fetch request.
pub(crate) const RECEIVE_MIN_BYTES: usize = 2048;

/// The largest receive buffer of a connection between requests. A buffer is as large as the
/// connection's largest request up to this size. A batch of 16 KiB, the default of producers, is
/// thus received at once and without new memory.
pub(crate) const RECEIVE_KEPT_BYTES: usize = 20 * 1024;

/// The least growth of the receive buffer once a frame's first bytes are here. It grows by as much
/// as has been received.
pub(crate) const RECEIVE_STEP_BYTES: usize = 64 * 1024;

/// A frame up to this size is received without a share of the budget of requests in flight.
pub(crate) const RECEIVE_FREE_BYTES: usize = RECEIVE_STEP_BYTES;

/// SO_SNDBUF of a connection. It is as fast as any value on short paths, and faster than the
/// kernel's own tuning where answers are large (docs/EXPERIMENTS.md). 1000 peers that do not read
/// hold 0.5 GiB with it, instead of all memory. The kernel doubles it, and takes no more than
/// net.core.wmem_max.
pub(crate) const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Pipes of all rings together. With 64 pages each they are the 16 384 pages that a user without
/// CAP_SYS_RESOURCE may have (`fs.pipe-user-pages-soft`). One more pipe would have two slots.
pub(crate) const PIPES: usize = 16_384 / penstock_ring::DEFAULT_PIPE_SLOTS as usize;

/// The least number of pipes of a ring, however many workers there are.
pub(crate) const PIPES_PER_RING_MIN: usize = 8;

/// Record bytes of a partition that one commit writes, unless a single request has more.
pub(crate) const COMMIT_MAX_BYTES: u64 = 8 * MIB as u64;

/// Produce requests of a partition that one commit writes.
pub(crate) const COMMIT_MAX_REQUESTS: usize = 256;

/// Partitions that one CreateTopics or CreatePartitions request may ask for.
pub(crate) const PARTITIONS_PER_REQUEST_MAX: i32 = 10_000;

/// Memory of an answer without records, where Kafka repeats what a request repeats, or describes at
/// length.
pub(crate) const ANSWER_MAX_BYTES: usize = 64 * MIB as usize;

/// Memory of all answers in the making.
pub(crate) const ANSWERS_IN_FLIGHT_MAX_BYTES: usize = 256 * MIB as usize;

/// An answer up to this size is not counted: a thousand partitions.
pub(crate) const ANSWER_FREE_BYTES: usize = 128 * 1024;

/// Bytes of an answer, beside records, that a peer may leave unread without their counting.
pub(crate) const ANSWER_UNCOUNTED_BYTES: u64 = 16 * 1024;

/// Topics that one Metadata request may create. Each takes several syncs; clients ask again for the
/// rest.
pub(crate) const AUTO_CREATED_TOPICS_MAX: u32 = 100;

/// Produce is refused while the file system of the data directory has less than this free.
pub(crate) const DISK_RESERVE_BYTES: u64 = 1024 * MIB as u64;

/// Produce is refused while less than this share of the file system is free.
pub(crate) const DISK_RESERVE_PERCENT: u64 = 5;

const MIB: u32 = 1024 * 1024;

const _: () = {
    assert!(FETCH_MAX_BYTES < i32::MAX as u64, "an answer's length is an int32");
    assert!(BATCH_MAX_BYTES < FRAME_MAX_BYTES as usize, "a frame must hold a batch");
    assert!(FRAME_MAX_BYTES < REQUESTS_IN_FLIGHT_MAX_BYTES, "the budget must hold a frame");
    assert!(ANSWER_MAX_BYTES < ANSWERS_IN_FLIGHT_MAX_BYTES, "the budget must hold an answer");
    assert!(RECEIVE_MIN_BYTES < RECEIVE_STEP_BYTES);
};
