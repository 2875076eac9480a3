//! What one transfer did: the answer of [`Ring::transfer`](crate::Ring::transfer). Filled by
//! perform.rs as plans complete.

use std::time::{Duration, Instant};

/// Bytes of file pieces, by path, and what came from the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes sent by linked splices.
    pub chain_bytes: u64,
    /// Bytes sent by sendfile.
    pub sendfile_bytes: u64,
    /// Bytes sent through user space.
    pub copy_bytes: u64,
    /// Of all these, bytes that the disk was read for: those of pages that were not in memory when
    /// the ring looked ahead of the peer's place, before the kernel read on to them. Where nothing
    /// shows that, all that chains move. A path fixed to chain or sendfile never looks, so there it
    /// is 0.
    pub cold_bytes: u64,
    /// How long plans waited for the disk, each from its start, with its wait for a place among
    /// cold chains, to its completion.
    pub disk_wait: Duration,
    /// When the socket first took no more, so that the peer was waited for.
    pub full_at: Option<Instant>,
}

impl Sent {
    /// Bytes sent by all paths.
    pub fn file_bytes(&self) -> u64 {
        self.chain_bytes + self.sendfile_bytes + self.copy_bytes
    }
}

/// The account of one transfer.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) sent: Sent,
    /// When the plan began to wait for the disk.
    cold_since: Option<Instant>,
}

impl Account {
    /// A plan waits for the disk from now on.
    pub(crate) fn begin_cold(&mut self) {
        self.cold_since = Some(Instant::now());
    }

    /// A plan is over.
    pub(crate) fn end_cold(&mut self) {
        if let Some(since) = self.cold_since.take() {
            self.sent.disk_wait += since.elapsed();
        }
    }

    /// Counts what the disk is read for, beside what copies have read themselves.
    pub(crate) fn note_cold(&mut self, bytes: u64) {
        self.sent.cold_bytes += bytes;
    }

    /// The answer is over. A plan may have been for more than it sent.
    pub(crate) fn end(&mut self) -> Sent {
        self.sent.cold_bytes = self.sent.cold_bytes.min(self.sent.file_bytes());
        self.sent
    }

    /// The socket takes no more for now.
    pub(crate) fn note_full(&mut self) {
        self.sent.full_at.get_or_insert_with(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_full_socket_is_noted_once() {
        let mut account = Account::default();
        assert_eq!(account.sent.full_at, None);
        account.note_full();
        let first = account.sent.full_at;
        account.note_full();
        assert!(first.is_some() && account.sent.full_at == first);
    }
}
