//! Every message, a file for each family of APIs, named as in Kafka's message definitions.
//!
//! To add one, declare its structures with `schema!` in a file here, and its row in `api`.

mod admin;
mod api_versions;
mod configs;
mod fetch;
mod group;
mod list_offsets;
mod metadata;
mod produce;
mod producer_id;

pub use admin::*;
pub use api_versions::*;
pub use configs::*;
pub use fetch::*;
pub use group::*;
pub use list_offsets::*;
pub use metadata::*;
pub use produce::*;
pub use producer_id::*;
