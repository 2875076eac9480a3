//! How a Kafka takes over the topics of a data directory: the plan, and the shell script that
//! carries it out.
//!
//! Called by the command `export`. Pure: plain lists in, text out.
//!
//! ```text
//!   topics and commits here ──┐
//!                             ├──► plan: what Kafka must create, delete, alter ──► script: aside, create, copy, finish
//!   what the Kafka knows ─────┘    and which files it must be given
//! ```
//!
//! A Kafka serves a directory only if its own metadata has the topic with the id of
//! `partition.metadata`. It renames all others to `*-stray`. So Kafka's own command creates a topic
//! that it does not know, and the topic gets its segment files afterwards, while that Kafka is
//! stopped.

mod plan;
mod script;

pub(crate) use plan::{Commit, KafkaTopic, Plan, Topic};
pub(crate) use script::{Places, script};
