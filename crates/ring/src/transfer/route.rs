//! Chooses the way of the next bytes of a transfer. Pure. perform.rs calls it before each plan of a
//! transfer whose path is [`Path::Auto`](crate::Path::Auto).
//!
//! ```text
//!   little is left ────────────────────► copy        one read and one send are the cheapest
//!   all of it is in the page cache ────► sendfile    no kernel worker to wake; copy, where the
//!                                                    kernel would copy as well, and slower
//!   else ──────────────────────────────► chain       only a worker waits for the disk
//! ```
//!
//! The choice holds for one plan (a turn of some 256 KiB), because pages come and go while a slow
//! peer takes the rest.

use crate::ring_config::{COPY_MAX_BYTES, Spliced};

/// The way of one plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Copy,
    Sendfile,
    /// It will wait for a disk, and must be admitted among the chains that do.
    Chain,
}

/// Chooses for a transfer with `rest_bytes` still to be sent. `is_cached` tells whether all pages
/// of the next turn are in the page cache, and false when in doubt. It is called only where it
/// matters.
pub(crate) fn choose(
    rest_bytes: u64,
    can_chain: bool,
    spliced: Spliced,
    is_cached: impl FnOnce() -> bool,
) -> Way {
    let at_once = match spliced {
        Spliced::Pages => Way::Sendfile,
        Spliced::Copies => Way::Copy,
    };
    if rest_bytes <= COPY_MAX_BYTES {
        Way::Copy
    } else if !can_chain || is_cached() {
        at_once
    } else {
        Way::Chain
    }
}

#[cfg(test)]
mod tests {
    use super::Spliced::{Copies, Pages};
    use super::*;

    fn never_asked() -> bool {
        panic!("residency makes no difference here and costs a system call")
    }

    #[test]
    fn little_is_copied_without_asking() {
        for spliced in [Pages, Copies] {
            assert_eq!(choose(1, true, spliced, never_asked), Way::Copy);
            assert_eq!(choose(COPY_MAX_BYTES, true, spliced, never_asked), Way::Copy);
        }
    }

    #[test]
    fn the_page_cache_decides() {
        assert_eq!(choose(COPY_MAX_BYTES + 1, true, Pages, || true), Way::Sendfile);
        assert_eq!(choose(COPY_MAX_BYTES + 1, true, Copies, || true), Way::Copy);
        for spliced in [Pages, Copies] {
            assert_eq!(choose(COPY_MAX_BYTES + 1, true, spliced, || false), Way::Chain);
        }
    }

    #[test]
    fn without_io_uring_nothing_is_chained() {
        assert_eq!(choose(u64::MAX, false, Pages, never_asked), Way::Sendfile);
        assert_eq!(choose(u64::MAX, false, Copies, never_asked), Way::Copy);
        assert_eq!(choose(COPY_MAX_BYTES, false, Pages, never_asked), Way::Copy);
    }
}
