//! What all workers share: topics, partitions, groups, producer ids, the server's identity.
//!
//! Knows `config` and the base modules. Must never know sockets or Kafka's answers.

pub(crate) mod batch_times;
pub(crate) mod budget_metrics;
pub(crate) mod cold_budgets;
pub(crate) mod decompress;
pub(crate) mod disk_reserve;
pub(crate) mod file_system;
pub(crate) mod give_way;
pub(crate) mod groups;
pub(crate) mod lags;
pub(crate) mod last_minutes;
pub(crate) mod memory;
pub(crate) mod meta_properties;
pub(crate) mod metrics;
pub(crate) mod overrides;
pub(crate) mod partition;
pub(crate) mod producer_ids;
pub(crate) mod read;
pub(crate) mod read_errors;
pub(crate) mod reader_metrics;
pub(crate) mod readers;
pub(crate) mod registry;
pub(crate) mod residency_map;
pub(crate) mod send_memory;
pub(crate) mod topic_config;
pub(crate) mod topics;
pub(crate) mod uploads;
pub(crate) mod waiting;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use penstock_storage::DataDir;
use tokio::sync::Semaphore;

use crate::config::settings::Settings;
use cold_budgets::ColdBudgets;
use disk_reserve::Reserve;
use file_system::FileSystem;
use groups::{Groups, OffsetStore};
use lags::Lags;
use last_minutes::LastMinutes;
use memory::Memory;
use meta_properties::Cluster;
use metrics::Metrics;
use producer_ids::ProducerIds;
use read_errors::ReadErrors;
use readers::Readers;
use topics::Topics;

/// What every worker shares.
pub(crate) struct Broker {
    pub(crate) settings: Settings,
    pub(crate) topics: Topics,
    pub(crate) cluster: Cluster,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) groups: Arc<Groups>,
    pub(crate) metrics: Metrics,
    pub(crate) last_minutes: LastMinutes,
    /// The file system of the data directory.
    pub(crate) lies_on: FileSystem,
    pub(crate) disk: Reserve,
    pub(crate) read_errors: ReadErrors,
    pub(crate) readers: Arc<Readers>,
    pub(crate) lags: Lags,
    /// None: nothing bounds what fetches read from the disk.
    pub(crate) cold_budgets: Option<Arc<ColdBudgets>>,
    /// Held while a topic's configuration changes. Such a change waits for appends on one of a few
    /// threads, and those appends may need another of them.
    pub(crate) altering: tokio::sync::Mutex<()>,
    /// Connections open now, on all workers.
    pub(crate) connections: AtomicUsize,
    /// Memory of requests, and of answers until peers have taken them.
    pub(crate) memory: Memory,
    /// Bytes that answers in the making may still take.
    pub(crate) answers_in_flight: Arc<Semaphore>,
}

impl Broker {
    /// Opens everything in the data directory. Blocks.
    ///
    /// # Errors
    /// The directory cannot be used, or is no data directory of Penstock or Kafka.
    pub(crate) fn open(
        settings: Settings,
        memory: Memory,
        data_dir: DataDir,
        lies_on: &FileSystem,
        bound: SocketAddr,
    ) -> anyhow::Result<Arc<Broker>> {
        let metrics = Metrics::new();
        metrics.note_data_dir(lies_on);
        let cluster = Cluster::open(&settings, bound)?;
        let offsets = Arc::new(OffsetStore::open(&settings.data_dir, settings.durability)?);
        let cold_budgets = ColdBudgets::of(&settings, Instant::now());
        cold_budgets.iter().for_each(|budgets| metrics.watch_budgets(Arc::clone(budgets)));
        let topics = Topics::open(&settings, data_dir, &offsets, &metrics)?;
        let groups = Arc::new(Groups::new(settings.groups, offsets));
        let known = topics.greatest_producer_id();
        let producer_ids = ProducerIds::open(&settings.data_dir, known)?;
        Ok(Arc::new(Broker {
            disk: Reserve::new(&settings),
            read_errors: ReadErrors::default(),
            readers: Arc::new(Readers::new(Arc::clone(&groups))),
            lags: Lags::default(),
            cold_budgets,
            topics,
            cluster,
            producer_ids,
            groups,
            metrics,
            last_minutes: LastMinutes::new(Instant::now()),
            lies_on: lies_on.clone(),
            altering: tokio::sync::Mutex::default(),
            connections: AtomicUsize::new(0),
            answers_in_flight: Arc::new(Semaphore::new(settings.answers_in_flight_max_bytes)),
            memory,
            settings,
        }))
    }
}
