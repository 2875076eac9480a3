//! Reads sealed segments slowly and for ever, to find damage before a consumer does.
//!
//! Off unless `scrub.bytes.per.second` is set. Runs beside the workers on the main thread's
//! runtime. A step reads 1 MiB or a batch on a thread that may block; then the task sleeps for as
//! long as the rate asks. Pages that were read from the disk leave the page cache again. The log
//! keeps what is found.

use std::sync::Arc;
use std::time::Duration;

use penstock_ring::blocking;
use penstock_storage::{Offset, Position, Scrub};
use tokio::sync::watch;

use crate::broker::Broker;
use crate::broker::partition::Partition;
use crate::broker::read_errors::{Place, What};
use crate::stop::{Stop, wait_for};

/// What a step usually reads.
const STEP_BYTES: u64 = 1 << 20;

/// Between two rounds. A round may have nothing to read.
const REST: Duration = Duration::from_secs(60);

/// Runs until a stop begins. What has been found by then is noted first: nothing may write to a log
/// that is being closed.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<Stop>) {
    let bytes_per_second = broker.settings.scrub_bytes_per_second;
    if bytes_per_second == 0 {
        return wait_for(&mut stop, Stop::Drain).await;
    }
    loop {
        for partition in broker.topics.partitions() {
            for (base, next) in sealed_segments(&partition) {
                let read = tokio::select! {
                    read = read(&broker, &partition, base, next, bytes_per_second) => read,
                    () = wait_for(&mut stop, Stop::Drain) => return,
                };
                let noted = match read {
                    Ok(None) => Ok(()),
                    Ok(Some(scrub)) => note(Arc::clone(&partition), scrub).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = noted {
                    tracing::error!(partition = %partition.name, segment = base.0, %error, "cannot scrub");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(REST) => {}
            () = wait_for(&mut stop, Stop::Drain) => return,
        }
    }
}

/// Each segment with the base offset of the next one.
fn sealed_segments(partition: &Partition) -> Vec<(Offset, Offset)> {
    let bases: Vec<Offset> =
        partition.log().segments().map(|segment| segment.base_offset).collect();
    bases.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Reads a segment whole; `None`: it is gone. Changes nothing, so it may be dropped at any time.
async fn read(
    broker: &Broker,
    partition: &Arc<Partition>,
    base: Offset,
    next: Offset,
    bytes_per_second: u64,
) -> std::io::Result<Option<Scrub>> {
    let opening = Arc::clone(partition);
    let open = move || {
        opening.touch_files(|| {
            // The segment may have expired since it was listed.
            let is_there = opening.log().segments().any(|segment| segment.base_offset == base);
            let dir = opening.log().dir().to_owned();
            is_there.then(|| Scrub::open(&dir, base, Some(next)))
        })
    };
    let opened = blocking::run(open).await?;
    let Some(mut scrub) = opened.flatten().transpose()? else { return Ok(None) };
    loop {
        let step = blocking::run(move || {
            let step = scrub.step();
            (scrub, step)
        });
        let (back, step) = step.await?;
        scrub = back;
        let step = step.inspect_err(|_| note_unreadable(broker, partition, &scrub));
        let Some(read_bytes) = step? else { return Ok(Some(scrub)) };
        broker.metrics.scrubbed_bytes.inc_by(read_bytes);
        let seconds = read_bytes as f64 / bytes_per_second as f64;
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }
}

/// Fetches prove what they promise there from now on.
fn note_unreadable(broker: &Broker, partition: &Partition, scrub: &Scrub) {
    let (file, Position(position)) = scrub.place();
    broker.metrics.note_read_error(What::Scrub);
    let len_bytes = (scrub.report().size_bytes - position).min(STEP_BYTES);
    broker.read_errors.keep(&partition.name, Place { file, position, len_bytes });
}

async fn note(partition: Arc<Partition>, scrub: Scrub) -> std::io::Result<()> {
    blocking::run(move || keep(&partition, &scrub)).await?
}

fn keep(partition: &Partition, scrub: &Scrub) -> std::io::Result<()> {
    let report = scrub.report();
    if report.wrong_index_entries > 0 {
        tracing::warn!(
            partition = %partition.name, segment = report.segment.0,
            entries = report.wrong_index_entries,
            "an index does not fit its batches: look-ups may be slow; `penstock scrub` can rebuild it"
        );
    }
    let noted = partition.touch_files(|| {
        let flush = partition.log().note_scrubbed(report);
        flush.map_or(Ok(()), |flush| flush.write())
    });
    noted.unwrap_or(Ok(()))
}
