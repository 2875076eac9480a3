//! Bytes behind the log end in the active segment's file, which are no part of the log: an append
//! found no room, and its bytes could not be cut off again. Btrfs over its quota even refuses to
//! shrink a file.
//!
//! ```text
//!                    log end
//!                       ▼
//!   … [batch][batch][batch]│ refused, in part or whole │
//!                          └ cut before the next append, before a roll, and by a clean stop
//! ```
//!
//! Readers never see these bytes. Nothing is appended behind them: an append asks for the cut
//! first, and is refused for want of room if the cut is. A start after a kill keeps whole batches
//! among them, like any batch that a killed server had written and not yet acknowledged.

use std::{io, sync::Arc};

use crate::{
    disk::is_no_room,
    log::{Log, Writing, append::Append},
    segment::SegmentFiles,
};

/// Makes the active segment's file end where the log does.
#[derive(Debug)]
pub struct TailCut {
    files: Arc<SegmentFiles>,
    len_bytes: u64,
}

impl TailCut {
    /// Blocks. May be tried again. Nothing may be appended meanwhile.
    pub fn run(&self) -> io::Result<()> {
        self.files.log.set_len(self.len_bytes)
    }
}

impl Log {
    /// Like `cancel_append`, but bytes of the append may still be in the file, because the cut
    /// found no room.
    pub fn leave_append(&mut self, append: Append) {
        self.cancel_append(append);
        self.is_torn = true;
    }

    /// The cut that must run before the next append, and before a roll.
    pub fn needs_cut(&self) -> Option<TailCut> {
        let segment = &self.active.segment;
        let cut = || TailCut { files: segment.files.clone(), len_bytes: segment.size_bytes };
        (self.is_torn && !self.is_offline()).then(cut)
    }

    /// Takes the outcome of a cut. For want of room it is tried again; after any other error the
    /// log goes offline.
    pub fn finish_cut(&mut self, outcome: &io::Result<()>) {
        match outcome {
            Ok(()) => {
                self.is_torn = false;
                self.changes += 1;
            }
            Err(error) if is_no_room(error) => {}
            Err(error) => {
                self.writing = Writing::Offline;
                tracing::error!(
                    dir = %self.dir.display(), %error,
                    "a refused append cannot be cut off; the partition takes no more appends until the server is restarted"
                );
            }
        }
    }
}
