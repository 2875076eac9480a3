//! How a Kafka takes over the topics of a data directory: what has to be done, and the shell script
//! that does it.
//!
//! Called by the command `export`. Pure: plain lists in, text out.
//!
//! ```text
//!   topics and commits here ──┐
//!                             ├──► plan: what Kafka must create, delete, alter ──► script: aside, create, copy, finish
//!   what the Kafka knows ─────┘    and which files it must be given
//! ```
//!
//! A Kafka serves a directory only if its own metadata names the topic with the id in
//! `partition.metadata`. It renames every other one to `*-stray`. So a topic it does not know is
//! created by its own command, and gets the segment files afterwards, while that Kafka is stopped.

mod plan;
mod script;

pub(crate) use plan::{Commit, KafkaTopic, Plan, Topic};
pub(crate) use script::{Places, script};
