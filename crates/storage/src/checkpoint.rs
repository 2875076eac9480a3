//! Small files beside the segments that hold what else is known of a log. Each is replaced whole.
//! Each may be missing: recovery then reads more of the log, and without `partition.metadata` the
//! topic has no id.
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
