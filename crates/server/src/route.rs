//! Which way the record bytes of an answer go out. Pure: called by connection, does nothing.

use penstock_ring::Path;

use crate::limits::COPY_MAX_BYTES;

/// What the operator chose with `--fetch-path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchPath {
    /// Decided for each answer.
    Auto,
    /// Linked splices: file → pipe → socket.
    Chain,
    /// Non-blocking `sendfile(2)` from the event loop.
    Sendfile,
    /// Read into memory, send from memory.
    Copy,
}

/// The path of one answer with `record_bytes` of file ranges in it.
///
/// Under `auto` small answers are copied, since for them waking a kernel worker costs more than the
/// copy; the rest are chained. Both leave the event loop free when the pages are not in memory.
pub(crate) fn path_of(chosen: FetchPath, record_bytes: u64) -> Path {
    match chosen {
        FetchPath::Chain => Path::Chain,
        FetchPath::Sendfile => Path::Sendfile,
        FetchPath::Copy => Path::Copy,
        FetchPath::Auto if record_bytes <= COPY_MAX_BYTES => Path::Copy,
        FetchPath::Auto => Path::Chain,
    }
}

impl std::str::FromStr for FetchPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(FetchPath::Auto),
            "chain" => Ok(FetchPath::Chain),
            "sendfile" => Ok(FetchPath::Sendfile),
            "copy" => Ok(FetchPath::Copy),
            _ => Err("is none of auto, chain, sendfile, copy".to_owned()),
        }
    }
}

impl std::fmt::Display for FetchPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FetchPath::Auto => "auto",
            FetchPath::Chain => "chain",
            FetchPath::Sendfile => "sendfile",
            FetchPath::Copy => "copy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_path_is_taken_whatever_the_size() {
        for bytes in [0, 1, COPY_MAX_BYTES, u64::MAX] {
            assert_eq!(path_of(FetchPath::Chain, bytes), Path::Chain);
            assert_eq!(path_of(FetchPath::Sendfile, bytes), Path::Sendfile);
            assert_eq!(path_of(FetchPath::Copy, bytes), Path::Copy);
        }
    }

    #[test]
    fn auto_copies_small_answers_and_chains_large_ones() {
        assert_eq!(path_of(FetchPath::Auto, COPY_MAX_BYTES), Path::Copy);
        assert_eq!(path_of(FetchPath::Auto, COPY_MAX_BYTES + 1), Path::Chain);
    }
}
