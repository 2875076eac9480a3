//! The server's metrics, for Prometheus.
//!
//! Requests and produced bytes are counted here as they happen. The rings' own counters are read
//! when /metrics is asked for. Answered by [`crate::http`].

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use penstock_ring::{Counter as RingCounter, Counters};
use penstock_storage::Expiry;
use penstock_wire::{ApiKey, SUPPORTED};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::broker::budget_metrics::BudgetMetrics;
use crate::broker::cold_budgets::ColdBudgets;
use crate::broker::file_system::FileSystem;
use crate::broker::give_way::Shortage;
use crate::broker::memory::Memory;
use crate::broker::read_errors::What;
use crate::broker::reader_metrics::ReaderMetrics;

/// The label for an API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Api {
    api: &'static str,
}

/// The label for the reason of an expiry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The label for the kind of a failed read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Read {
    read: &'static str,
}

/// The label for what a splice moves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Splice {
    moves: &'static str,
}

/// The labels of the data directory's file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DataDir {
    file_system: String,
    residency: &'static str,
}

/// The metrics of one API's requests, found by index, since every request updates them.
struct Answered {
    requests: Counter,
    seconds: Histogram,
}

/// The counters of the server.
pub(crate) struct Metrics {
    registry: Registry,
    rings: Arc<Mutex<Vec<Arc<Counters>>>>,
    /// By API key; keys that are not served have none.
    requests: Vec<Option<Answered>>,
    /// Connections open now.
    pub(crate) connections: Gauge,
    /// Fetches that wait for data.
    pub(crate) fetches_waiting: Gauge,
    /// Record bytes taken from producers.
    pub(crate) produced_bytes: Counter,
    /// Requests, writes and syncs of group commit; counted where the writes happen.
    pub(crate) appends: Counter,
    pub(crate) append_writes: Counter,
    pub(crate) log_syncs: Counter,
    /// Partitions served.
    pub(crate) partitions: Gauge,
    /// Partitions that take no appends until restart, because a write or sync failed or because
    /// they could not be opened.
    pub(crate) partitions_offline: Gauge,
    /// Ranges of segments that are not served because they are damaged; and the bytes in them.
    pub(crate) damaged_ranges: Gauge,
    pub(crate) damaged_bytes: Gauge,
    /// Offsets that this start found missing between segments.
    pub(crate) missing_offsets: Gauge,
    /// Segments that retention has deleted; and the bytes in them.
    expired_segments: Family<Reason, Counter>,
    expired_bytes: Family<Reason, Counter>,
    /// Bytes that the background scrubber has read.
    pub(crate) scrubbed_bytes: Counter,
    /// Reads that the disk failed.
    read_errors: Family<Read, Counter>,
    /// Partitions with a place that cannot be read.
    pub(crate) partitions_unreadable: Gauge,
    /// 1, with the data directory's file system as labels.
    data_dir: Family<DataDir, Gauge>,
    /// 1, with what splice and sendfile move there as label.
    splice: Family<Splice, Gauge>,
    /// Read from [`Memory`] when /metrics is asked for.
    memory: MemoryGauges,
    gave_way: Family<Reason, Counter>,
    /// Read from the broker's readers when /metrics is asked for.
    pub(crate) readers: ReaderMetrics,
    budgets: BudgetMetrics,
    is_ready: AtomicBool,
}

/// The memory limit, and memory held for peers.
#[derive(Default)]
struct MemoryGauges {
    limit_bytes: Gauge,
    page_bytes: Gauge,
    send_buffer_bytes: Gauge,
    request_bytes: Gauge,
    answer_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("penstock");
        let rings = Arc::new(Mutex::new(Vec::new()));
        let metrics = Metrics {
            rings: Arc::clone(&rings),
            requests: answered_by_api(&mut registry),
            connections: Gauge::default(),
            fetches_waiting: Gauge::default(),
            produced_bytes: Counter::default(),
            appends: Counter::default(),
            append_writes: Counter::default(),
            log_syncs: Counter::default(),
            partitions: Gauge::default(),
            partitions_offline: Gauge::default(),
            damaged_ranges: Gauge::default(),
            damaged_bytes: Gauge::default(),
            missing_offsets: Gauge::default(),
            expired_segments: Family::default(),
            expired_bytes: Family::default(),
            scrubbed_bytes: Counter::default(),
            read_errors: Family::default(),
            partitions_unreadable: Gauge::default(),
            data_dir: Family::default(),
            splice: Family::default(),
            memory: MemoryGauges::registered(&mut registry),
            gave_way: Family::default(),
            readers: ReaderMetrics::default(),
            budgets: BudgetMetrics::default(),
            is_ready: AtomicBool::new(false),
            registry: Registry::default(),
        };
        registry.register("connections", "Connections open now", metrics.connections.clone());
        registry.register(
            "fetch_waiting",
            "Fetches that wait for data",
            metrics.fetches_waiting.clone(),
        );
        registry.register(
            "produced_bytes",
            "Record bytes taken from producers",
            metrics.produced_bytes.clone(),
        );
        let writes = "Writes to logs that carried produce requests";
        registry.register("appends", "Produce requests written to logs", metrics.appends.clone());
        registry.register("append_groups", writes, metrics.append_writes.clone());
        registry.register("log_syncs", "Syncs of logs for producers", metrics.log_syncs.clone());
        registry.register("partitions", "Partitions served", metrics.partitions.clone());
        registry.register(
            "partitions_offline",
            "Partitions that take no appends: a write or sync failed, or they could not be opened",
            metrics.partitions_offline.clone(),
        );
        let help = "Damaged ranges of segments, which are not served";
        registry.register("damaged_ranges", help, metrics.damaged_ranges.clone());
        registry.register(
            "damaged_bytes",
            "Bytes in damaged ranges",
            metrics.damaged_bytes.clone(),
        );
        let help = "Offsets that this start found missing between segments";
        registry.register("missing_offsets", help, metrics.missing_offsets.clone());
        let help = "Segments that retention has deleted";
        registry.register("expired_segments", help, metrics.expired_segments.clone());
        let help = "Bytes in segments that retention has deleted";
        registry.register("expired_bytes", help, metrics.expired_bytes.clone());
        let help = "Bytes read by the background scrubber";
        registry.register("scrubbed_bytes", help, metrics.scrubbed_bytes.clone());
        let help = "Reads that the disk failed, by purpose";
        registry.register("read_errors", help, metrics.read_errors.clone());
        let help = "Partitions with a place that cannot be read";
        registry.register("partitions_unreadable", help, metrics.partitions_unreadable.clone());
        let help =
            "The data directory's file system, and how cached pages are seen there; always 1";
        registry.register("data_dir", help, metrics.data_dir.clone());
        let help = "What splice and sendfile move of the data directory's files; always 1";
        registry.register("splice", help, metrics.splice.clone());
        let help = "Connections closed as the slowest while others waited, by what was short";
        registry.register("connections_gave_way", help, metrics.gave_way.clone());
        registry.register_collector(Box::new(RingCollector { rings }));
        registry.register_collector(Box::new(metrics.readers.clone()));
        registry.register_collector(Box::new(metrics.budgets.clone()));
        Metrics { registry, ..metrics }
    }

    /// Shows the budgets of cold reads from now on.
    pub(crate) fn watch_budgets(&self, budgets: Arc<ColdBudgets>) {
        self.budgets.watch(budgets);
    }

    /// Adds a ring's counters.
    pub(crate) fn watch_ring(&self, counters: Arc<Counters>) {
        self.rings.lock().push(counters);
    }

    /// A counter, summed over all rings.
    pub(crate) fn ring_sum(&self, of: fn(&Counters) -> u64) -> u64 {
        self.rings.lock().iter().map(|ring| of(ring)).sum()
    }

    pub(crate) fn note_read_error(&self, what: What) {
        self.read_errors.get_or_create(&Read { read: what.name() }).inc();
    }

    pub(crate) fn note_data_dir(&self, lies_on: &FileSystem) {
        let (file_system, residency) = (lies_on.name.clone(), lies_on.residency());
        self.data_dir.get_or_create(&DataDir { file_system, residency }).set(1);
        self.splice.get_or_create(&Splice { moves: lies_on.moves() }).set(1);
    }

    pub(crate) fn note_expired(&self, why: Expiry, segments: u64, bytes: u64) {
        let reason = match why {
            Expiry::LogStart => "log_start",
            Expiry::Size => "size",
            Expiry::Time => "time",
        };
        let reason = Reason { reason };
        self.expired_segments.get_or_create(&reason).inc_by(segments);
        self.expired_bytes.get_or_create(&reason).inc_by(bytes);
    }

    pub(crate) fn note_gave_way(&self, shortage: Shortage, connections: u64) {
        let reason = Reason { reason: shortage.name() };
        self.gave_way.get_or_create(&reason).inc_by(connections);
    }

    /// Takes the current values over.
    pub(crate) fn show_memory(&self, memory: &Memory) {
        let gauges = &self.memory;
        gauges.limit_bytes.set(memory.limit.as_ref().map_or(0, |limit| limit.bytes as i64));
        gauges.page_bytes.set(memory.pages.as_ref().map_or(0, |pages| pages.held_bytes() as i64));
        gauges
            .send_buffer_bytes
            .set(memory.send.as_ref().map_or(0, |send| send.held_bytes() as i64));
        gauges.request_bytes.set(memory.uploads.held_bytes() as i64);
        gauges.answer_bytes.set(memory.answers.held_bytes() as i64);
    }

    pub(crate) fn request_done(&self, api: ApiKey, took: Duration) {
        if let Some(answered) = &self.requests[api as usize] {
            answered.requests.inc();
            answered.seconds.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.is_ready.store(ready, Ordering::Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// The text of /metrics.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            let _ = write!(text, "# cannot encode: {error}");
        }
        text
    }
}

impl MemoryGauges {
    fn registered(registry: &mut Registry) -> Self {
        let gauges = MemoryGauges::default();
        let help = "Memory limit of this server: its cgroup's or the machine's; 0: not known";
        registry.register("memory_limit_bytes", help, gauges.limit_bytes.clone());
        let help = "Bytes of files that unread answers keep in memory, at most";
        registry.register("memory_pinned_page_bytes", help, gauges.page_bytes.clone());
        let help = "Memory of send buffers beyond the least size; 0 where memory is not short";
        registry.register("memory_send_buffer_bytes", help, gauges.send_buffer_bytes.clone());
        let help = "Memory granted to requests that are being received or answered";
        registry.register("memory_request_bytes", help, gauges.request_bytes.clone());
        let help = "Memory of answers, beside records, that peers have not yet taken";
        registry.register("memory_answer_bytes", help, gauges.answer_bytes.clone());
        gauges
    }
}

fn answered_by_api(registry: &mut Registry) -> Vec<Option<Answered>> {
    let requests: Family<Api, Counter> = Family::default();
    let seconds: Family<Api, Histogram, fn() -> Histogram> =
        Family::new_with_constructor(latency_histogram);
    registry.register("requests", "Requests answered, by API", requests.clone());
    let help = "Time from a request's last received byte to its encoded answer, by API";
    registry.register("request_seconds", help, seconds.clone());
    let answered = |key: i16| {
        let label = Api { api: ApiKey::from_number(key)?.name() };
        let requests = requests.get_or_create_owned(&label);
        Some(Answered { requests, seconds: seconds.get_or_create_owned(&label) })
    };
    let last = SUPPORTED.iter().map(|api| api.key as i16).max().unwrap_or(-1);
    (0..=last).map(answered).collect()
}

fn latency_histogram() -> Histogram {
    const LEAST_SECONDS: f64 = 10e-6;
    const BUCKETS: u16 = 20;
    Histogram::new(exponential_buckets(LEAST_SECONDS, 2.0, BUCKETS))
}

/// Reads the rings' counters when /metrics is asked for, and adds them up.
#[derive(Debug)]
struct RingCollector {
    rings: Arc<Mutex<Vec<Arc<Counters>>>>,
}

impl Collector for RingCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let rings = self.rings.lock().clone();
        let sum = |of: ReadCounter| -> u64 { rings.iter().map(|ring| of(ring).get()).sum() };

        let mut sent = encoder.encode_descriptor(
            "sent_bytes",
            "Record bytes sent, by path",
            None,
            MetricType::Counter,
        )?;
        let by_path: [(&str, ReadCounter); 3] = [
            ("chain", |c| &c.chain_bytes),
            ("sendfile", |c| &c.sendfile_bytes),
            ("copy", |c| &c.copy_bytes),
        ];
        for (path, of) in by_path {
            let labels = [("path", path)];
            ConstCounter::new(sum(of)).encode(sent.encode_family(&labels)?)?;
        }

        for (name, help, of) in COUNTERS {
            let value = ConstCounter::new(sum(*of));
            let described = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            value.encode(described)?;
        }
        for (name, help, of) in GAUGES {
            let value = ConstGauge::new(sum(*of) as i64);
            let described = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            value.encode(described)?;
        }
        let workers = ConstGauge::new(kernel_workers() as i64);
        let help = "Kernel threads that work for the rings";
        workers.encode(encoder.encode_descriptor("io_workers", help, None, MetricType::Gauge)?)
    }
}

type ReadCounter = fn(&Counters) -> &RingCounter;
type Row = (&'static str, &'static str, ReadCounter);

const COUNTERS: &[Row] = &[
    ("ring_enters", "Calls of io_uring_enter that carried entries", |c| &c.enters),
    ("ring_entries", "Entries submitted", |c| &c.submitted),
    ("ring_completions", "Completions reaped", |c| &c.completions),
    ("ring_chains", "Chains of linked operations", |c| &c.chains),
    ("ring_hops", "Splices from a pipe to a socket", |c| &c.hops),
    ("ring_short_hops", "Hops that took less than the pipe held", |c| &c.short_hops),
    ("ring_residues", "Pipes closed because bytes were left in them", |c| &c.residues),
    ("ring_poll_outs", "Waits until a socket can be written", |c| &c.poll_outs),
    ("ring_pipe_waits", "Answers that waited for a pipe", |c| &c.pipe_waits),
    ("ring_cold_waits", "Chains that waited because too many others wait for the disk", |c| {
        &c.cold_waits
    }),
    ("ring_refused", "Operations that found no kernel worker, memory or pipe", |c| &c.refused),
    ("ring_copies_for_memory", "Turns that copied because peers held all pages they may", |c| {
        &c.copies_for_memory
    }),
    ("ring_orphans", "Operations that outlived the task that began them", |c| &c.orphans),
];

const GAUGES: &[Row] = &[
    ("ring_pipes_leased", "Pipes in use by answers in flight", |c| &c.pipes_leased),
    ("ring_pipes_open", "Pipes open", |c| &c.pipes_open),
];

/// Threads of this process that io_uring made.
fn kernel_workers() -> usize {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let is_worker = |thread: &std::fs::DirEntry| {
        let name = std::fs::read_to_string(thread.path().join("comm"));
        name.is_ok_and(|name| name.starts_with("iou-wrk"))
    };
    threads.flatten().filter(is_worker).count()
}
