//! Whether the disk has room for records, and whether an error means that it has none.
//!
//! A periodic task measures the free space; produce reads the last result, an atomic. Below the
//! reserve produce is refused and fetch goes on. Above it produce goes on again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use penstock_storage::is_no_room;

use crate::config::settings::Settings;

/// The space that is kept free, and whether it still is.
#[derive(Debug)]
pub(crate) struct Reserve {
    data_dir: PathBuf,
    bytes: u64,
    percent: u64,
    is_short: AtomicBool,
}

impl Reserve {
    pub(crate) fn new(settings: &Settings) -> Self {
        let reserve = Reserve {
            data_dir: settings.data_dir.clone(),
            bytes: settings.disk_reserve_bytes,
            percent: settings.disk_reserve_percent,
            is_short: AtomicBool::new(false),
        };
        reserve.look();
        reserve
    }

    /// Whether produce must be refused.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Measures the free space. Blocks for as long as statvfs(3) does.
    pub(crate) fn look(&self) {
        let Some((free, total)) = free_and_total_bytes(&self.data_dir) else { return };
        let is_short = is_below(free, total, self.bytes, self.percent);
        if self.is_short.swap(is_short, Ordering::Relaxed) == is_short {
            return;
        }
        if is_short {
            tracing::error!(
                free,
                total,
                reserve = self.bytes,
                percent = self.percent,
                "the disk is below its reserve: produce is refused, fetch goes on"
            );
        } else {
            tracing::info!(free, "the disk has room again: produce goes on");
        }
    }
}

/// Whether an error means that the disk has no room: see `is_no_room`.
pub(crate) fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(is_no_room))
}

fn is_below(free: u64, total: u64, reserve_bytes: u64, reserve_percent: u64) -> bool {
    free < reserve_bytes || u128::from(free) * 100 < u128::from(total) * u128::from(reserve_percent)
}

fn free_and_total_bytes(path: &Path) -> Option<(u64, u64)> {
    let file_system = rustix::fs::statvfs(path).ok()?;
    let block = file_system.f_frsize;
    Some((file_system.f_bavail.saturating_mul(block), file_system.f_blocks.saturating_mul(block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn either_reserve_alone_is_enough_to_refuse() {
        assert!(!is_below(10 * GIB, 100 * GIB, GIB, 5));
        assert!(is_below(GIB - 1, 2 * GIB, GIB, 5));
        assert!(is_below(10 * GIB, 201 * GIB, GIB, 5));
    }

    #[test]
    fn no_reserve_never_refuses() {
        assert!(!is_below(0, 100, 0, 0));
    }
}
