//! The names of all settings, in the file and in the environment. Data and pure look-ups.
//!
//! DescribeConfigs, `penstock serve --help` and deploy/penstock.toml follow this table.

/// Every key in the order of the documentation, with its meaning and [its default].
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("data-dir", "where the partitions live [./penstock-data]"),
    ("listen", "HOST:PORT to listen on [127.0.0.1:9092]"),
    ("advertise", "HOST:PORT that clients connect to [the listen address]"),
    ("workers", "worker threads [one a core]"),
    ("durability", "acknowledge in the page cache (os) or on the disk (fsync) [os]"),
    ("fetch-path", "auto, chain, sendfile or copy [auto]"),
    ("metrics", "HOST:PORT for monitoring and the live page [off]"),
    ("num.partitions", "partitions of a topic that is created without a count [1]"),
    ("auto.create.topics.enable", "a request for an unknown topic creates it [true]"),
    ("log.segment.bytes", "a segment rolls at this size [1 GiB]"),
    ("log.roll.ms", "a segment rolls at this age [7 days]"),
    ("log.retention.ms", "segments older than this are deleted; -1: none [7 days]"),
    ("log.retention.bytes", "a larger partition loses its oldest segments; -1: none [-1]"),
    ("log.flush.interval.messages", "sync with the write that completes so many records [never]"),
    ("log.flush.interval.ms", "records are synced after this time, to the second [never]"),
    ("log.retention.check.interval.ms", "how often retention runs [300000]"),
    ("flush.checkpoint.interval.ms", "how often logs are synced, to shorten recovery [60000]"),
    ("scrub.bytes.per.second", "how fast sealed segments are read to find damage; 0: never [0]"),
    ("message.max.bytes", "largest record batch [1048588]"),
    ("log.message.timestamp.type", "CreateTime or LogAppendTime [CreateTime]"),
    ("log.message.timestamp.before.max.ms", "how old a record's time may be [no limit]"),
    ("log.message.timestamp.after.max.ms", "how far ahead a record's time may be [3600000]"),
    ("penstock.verify.compressed", "decompress produced batches and check their records [false]"),
    ("socket.request.max.bytes", "largest request frame [100 MiB, or queued.max.request.bytes]"),
    ("fetch.max.bytes", "largest fetch answer, in record bytes [55 MiB]"),
    ("fetch.drop.behind", "pages that a scan read from disk leave the page cache [true]"),
    ("fetch.cold.bytes.per.second", "bytes that all fetches read from the disk; 0: no limit [0]"),
    ("fetch.cold.budgets", "the same by client-id/NAME=BYTES, group/NAME=BYTES, ... [none]"),
    ("fetch.hot.p99.target.ms", "p99 of hot fetches that cold reads give way to; 0: none [0]"),
    ("queued.max.request.bytes", "request bytes in memory at once [min(256 MiB, memory / 8)]"),
    ("max.connections", "connections [min(10000, open files / 4, memory / 128 KiB)]"),
    ("connections.max.idle.ms", "a connection without a request is closed after this [600000]"),
    ("frame.timeout.ms", "time from a request's first byte to its last [30000]"),
    ("send.timeout.ms", "a peer must take some of its answer within this [30000]"),
    ("socket.send.buffer.bytes", "SO_SNDBUF; -1: the kernel's own tuning [262144]"),
    ("disk.reserve.bytes", "produce is refused below this much free disk [1 GiB]"),
    ("disk.reserve.percent", "produce is refused below this share of free disk [5]"),
    ("group.initial.rebalance.delay.ms", "how long a new group waits for more members [100]"),
    ("group.min.session.timeout.ms", "shortest session time-out of a member [6000]"),
    ("group.max.session.timeout.ms", "longest session time-out of a member [1800000]"),
    ("group.max.size", "members of one group [1000]"),
    ("drain.timeout.ms", "time of a stop: 3/4 for requests, 1/4 for the disk [30000]"),
];

pub(super) const ENVIRONMENT_PREFIX: &str = "PENSTOCK_";

/// Names with the prefix that are no settings: other programs of the project read them.
pub(super) const NOT_SETTINGS: &[&str] = &["CONFIG", "LOG", "LOG_FORMAT", "BIN", "RECORDS"];

pub(super) fn environment_name(key: &str) -> String {
    key.to_uppercase().replace(['.', '-'], "_")
}

/// A hint for a misspelt key: the known key that shares most words with it.
pub(super) fn nearest(key: &str) -> String {
    let words = |key: &str| -> Vec<String> {
        key.to_lowercase().split(['.', '-', '_']).map(str::to_owned).collect()
    };
    let written = words(key);
    let shared = |candidate: &str| words(candidate).iter().filter(|w| written.contains(w)).count();
    match KEYS.iter().map(|(key, _)| (shared(key), *key)).max_by_key(|(shared, _)| *shared) {
        Some((shared, key)) if shared > 0 => format!(" (did you mean `{key}`?)"),
        _ => String::new(),
    }
}
