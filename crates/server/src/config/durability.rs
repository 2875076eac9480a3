//! `--durability`: what an acknowledgement promises. [`crate::broker::partition`] keeps the promise
//! for records, `groups/offset_store.rs` for committed offsets.

/// What holds when a producer is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The records are in the page cache.
    Os,
    /// The records are on the disk: one fdatasync(2) for all that was written together.
    Fsync,
}

/// What survives which failure; the README has the same table.
pub(crate) const TABLE: &str = "\
What survives of acknowledged records:
  acks    --durability  SIGKILL  power cut                  error of the disk
  0       os, fsync     nothing is acknowledged
  1, all  os            all      all but the newest, which  records written back; the next flush
                                 the kernel still held      takes the partition offline
  1, all  fsync         all      all                        all: failed ones are not acknowledged
A failed write or sync takes its partition offline until restart, unless the disk is full: produce
is refused there, fetch goes on. Records that a disk damages later are found by their CRC.
";

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Durability::Os => "os",
            Durability::Fsync => "fsync",
        })
    }
}

impl std::str::FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "os" => Ok(Durability::Os),
            "fsync" => Ok(Durability::Fsync),
            _ => Err("is neither os nor fsync".to_owned()),
        }
    }
}
