//! Small files beside the segments that say what else is known of a log. Each is replaced whole,
//! and each may be missing: then the log is read for it, or less is believed of it.
//!
//! | module | file | whose format |
//! |---|---|---|
//! | leader_epochs.rs | `leader-epoch-checkpoint` | Kafka's |
//! | partition_metadata.rs | `partition.metadata` | Kafka's |
//! | producer_snapshot.rs | `<offset>.snapshot` | Kafka's |
//! | recovery_points.rs | `penstock-recovery-points`, of the data directory | Penstock's, checked_text.rs |

pub(crate) mod checked_text;
pub(crate) mod leader_epochs;
pub(crate) mod partition_metadata;
pub(crate) mod producer_snapshot;
pub(crate) mod recovery_points;
