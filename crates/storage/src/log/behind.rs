//! How far a reader is behind the log end.
//!
//! ```text
//!   [ segment of `first` ......│ rest ][ later ] … [ active ]
//!                           position   └── bytes behind ────┘
//! ```
//!
//! Asked for by views of the readers. Reads memory only.

use std::{fs::File, sync::Arc};

use crate::{
    log::Log,
    units::{Offset, Position},
};

/// How far a place lies behind the log end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Bytes of batches between the place and the log end.
    pub bytes: u64,
    /// The offset at the place, where a segment ends there.
    pub next_offset: Option<Offset>,
}

impl Log {
    /// The file of the segment that holds the batch `first`, and its committed bytes. `None`:
    /// retention has deleted it.
    pub fn segment_bytes(&self, first: Offset) -> Option<(Arc<File>, u64)> {
        let (segment, _) = self.segment_of(first)?;
        Some((segment.files.log.handle().clone(), segment.size_bytes))
    }

    /// How far `position`, in the segment that holds the batch `first`, lies behind the log end. A
    /// segment that retention has deleted counts as the log start.
    pub fn behind(&self, first: Offset, position: Position) -> Behind {
        let Some((segment, sealed)) = self.segment_of(first) else {
            return Behind { bytes: self.size_bytes(), next_offset: None };
        };
        let rest_bytes = segment.size_bytes.saturating_sub(position.0);
        if !sealed {
            let next_offset = (rest_bytes == 0).then_some(self.log_end);
            return Behind { bytes: rest_bytes, next_offset };
        }
        let later = self.sealed.partition_point(|other| other.base() <= segment.base());
        let later_bytes: u64 = self.sealed.range(later..).map(|later| later.size_bytes).sum();
        let next = self.sealed.get(later).unwrap_or(&self.active.segment);
        Behind {
            bytes: rest_bytes + later_bytes + self.active.segment.size_bytes,
            next_offset: (rest_bytes == 0).then(|| next.base()),
        }
    }
}
