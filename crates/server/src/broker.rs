//! What all workers share: topics, partitions, groups, producer ids, the server's identity.
//!
//! Knows `config` and the base modules. Must never know sockets or how Kafka words an answer.

pub(crate) mod decompress;
pub(crate) mod disk_reserve;
pub(crate) mod file_system;
pub(crate) mod give_way;
pub(crate) mod groups;
pub(crate) mod memory;
pub(crate) mod meta_properties;
pub(crate) mod metrics;
pub(crate) mod overrides;
pub(crate) mod partition;
pub(crate) mod producer_ids;
pub(crate) mod read;
pub(crate) mod read_errors;
pub(crate) mod registry;
pub(crate) mod send_memory;
pub(crate) mod topic_config;
pub(crate) mod topics;
pub(crate) mod uploads;
pub(crate) mod waiting;
