//! What every bench stands on: the machine's cores, the page cache, what a server used, medians.
//!
//! It looks at servers from outside and never measures by itself; see the folders beside this one.

pub mod cache;
pub mod drawing;
pub mod machine;
pub mod spread;
pub mod usage;
pub mod words;
