//! Shared by all benches: the machine's cores, the page cache, a server's use of the machine,
//! medians.
//!
//! It looks at servers from outside, and never measures by itself. The folders beside this one do.

pub mod cache;
pub mod drawing;
pub mod machine;
pub mod spread;
pub mod usage;
pub mod words;
