//! `--fetch-path`: how record bytes go out. Under `auto` the ring decides at each turn, by what is
//! in the page cache (`ring/src/transfer/route.rs`).

use penstock_ring::Path;

/// The operator's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchPath {
    /// Decided for each turn of an answer.
    Auto,
    /// Linked splices: file → pipe → socket.
    Chain,
    /// Non-blocking `sendfile(2)` from the event loop.
    Sendfile,
    /// Read into memory, send from memory.
    Copy,
}

impl FetchPath {
    /// The ring's name for it.
    pub(crate) fn path(self) -> Path {
        match self {
            FetchPath::Auto => Path::Auto,
            FetchPath::Chain => Path::Chain,
            FetchPath::Sendfile => Path::Sendfile,
            FetchPath::Copy => Path::Copy,
        }
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
