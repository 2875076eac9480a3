//! One partition's log in Apache Kafka's on-disk format (docs/FORMAT.md).

mod append;
mod config;
mod data_dir;
mod log;
mod produced;
mod read;
mod topic;
mod units;

pub use append::*;
pub use config::*;
pub use data_dir::*;
pub use log::*;
pub use produced::*;
pub use read::*;
pub use topic::*;
pub use units::*;
