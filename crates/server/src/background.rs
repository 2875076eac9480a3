//! Periodic work beside the workers: retention, checkpoints, the scrubber, the groups' clock, the
//! control of cold reads.
//!
//! Knows `broker`.

pub(crate) mod checkpoints;
pub(crate) mod cold_control;
pub(crate) mod group_clock;
pub(crate) mod retention;
pub(crate) mod scrubber;
