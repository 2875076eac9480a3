//! What an operator may set, and limits that are fixed.

pub(crate) mod cold_budget;
pub(crate) mod durability;
pub(crate) mod fetch_path;
pub(crate) mod limits;
pub(crate) mod memory_limit;
pub(crate) mod settings;
