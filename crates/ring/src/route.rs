//! Which way the next bytes of a transfer go. Pure: asked by perform.rs before each plan of a transfer
//! whose path is [`Path::Auto`](crate::Path::Auto).
//!
//! ```text
//!   little is left ────────────────────► copy        one read, one send: nothing beats it
//!   not all in the page cache ─────────► cold chain  the worker waits for the disk, nobody else
//!   all there, much is left ───────────► chain       large hops outrun sendfile
//!   all there, not so much ────────────► sendfile    no kernel worker to wake
//!   all there, pipes are scarce ───────► sendfile    pipes are for those who wait for a disk
//! ```
//!
//! The answer holds for one plan only (a turn of some 256 KiB): pages come and go while a slow peer
//! takes the rest.

use crate::config::{CHAIN_MIN_BYTES, COPY_MAX_BYTES};

/// A way for the next plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Copy,
    Sendfile,
    Chain,
    /// A chain that will wait for a disk, and must be let in among those that do.
    ColdChain,
}

/// What there is for chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PipeSupply {
    /// No io_uring, no chains.
    None,
    /// Half of the pipes are in use, or more.
    Scarce,
    Plenty,
}

/// Decides for a transfer of which `rest_bytes` are still to be sent. `is_cached` says whether all that
/// the next turn would touch is in the page cache; it is asked only where it matters, and "in doubt" is no.
pub(crate) fn choose(rest_bytes: u64, pipes: PipeSupply, is_cached: impl FnOnce() -> bool) -> Way {
    if rest_bytes <= COPY_MAX_BYTES {
        Way::Copy
    } else if pipes == PipeSupply::None {
        Way::Sendfile
    } else if !is_cached() {
        Way::ColdChain
    } else if rest_bytes >= CHAIN_MIN_BYTES && pipes == PipeSupply::Plenty {
        Way::Chain
    } else {
        Way::Sendfile
    }
}

#[cfg(test)]
mod tests {
    use super::PipeSupply::{None, Plenty, Scarce};
    use super::*;

    fn never_asked() -> bool {
        panic!("residency makes no difference here and costs a system call")
    }

    #[test]
    fn little_is_copied_without_asking() {
        assert_eq!(choose(1, Plenty, never_asked), Way::Copy);
        assert_eq!(choose(COPY_MAX_BYTES, Plenty, never_asked), Way::Copy);
    }

    #[test]
    fn the_page_cache_decides_and_then_the_size() {
        assert_eq!(choose(COPY_MAX_BYTES + 1, Plenty, || true), Way::Sendfile);
        assert_eq!(choose(CHAIN_MIN_BYTES, Plenty, || true), Way::Chain);
        assert_eq!(choose(COPY_MAX_BYTES + 1, Plenty, || false), Way::ColdChain);
        assert_eq!(choose(CHAIN_MIN_BYTES, Plenty, || false), Way::ColdChain);
    }

    #[test]
    fn cached_bytes_leave_scarce_pipes_to_those_who_wait_for_a_disk() {
        assert_eq!(choose(CHAIN_MIN_BYTES, Scarce, || true), Way::Sendfile);
        assert_eq!(choose(CHAIN_MIN_BYTES, Scarce, || false), Way::ColdChain);
    }

    #[test]
    fn without_io_uring_nothing_is_chained() {
        assert_eq!(choose(u64::MAX, None, never_asked), Way::Sendfile);
        assert_eq!(choose(COPY_MAX_BYTES, None, never_asked), Way::Copy);
    }
}
