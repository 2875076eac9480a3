//! Group commit on real files and real rings: several workers, refusals, failing disks, workers
//! that end.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;

use penstock_batch::{BatchBuilder, Batches, NewRecord};
use penstock_ring::RingConfig;
use penstock_storage::{FlushError, Log, LogConfig, Offset, PartitionName, TopicId};

use super::*;

const LOG_FILE: &str = "00000000000000000000.log";

fn partition_in(dir: &Path, durability: Durability) -> Arc<Partition> {
    let log = Log::create(dir, TopicId::random(), LogConfig::default()).unwrap();
    let (appends, writes, syncs) = Default::default();
    let commits = Commits { durability, appends, writes, syncs };
    let name = PartitionName { topic: "t".to_owned(), partition: 0 };
    Partition::new(name, log, Arc::new(commits))
}

/// A partition whose log is a device: writes to it vanish, or never fit.
fn partition_on(device: &str, durability: Durability) -> (Arc<Partition>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(device, dir.path().join(LOG_FILE)).unwrap();
    (partition_in(dir.path(), durability), dir)
}

fn value(value: &str) -> ProducedBatch {
    produced(BatchBuilder::new(), value)
}

/// A record of producer 7.
fn numbered(sequence: i32) -> ProducedBatch {
    let mut builder = BatchBuilder::new();
    builder.set_producer(7, 0, sequence);
    produced(builder, "numbered")
}

fn produced(mut builder: BatchBuilder, value: &str) -> ProducedBatch {
    builder.push(NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() });
    ProducedBatch::validate(builder.finish().into(), &LogConfig::default().terms(0, true)).unwrap()
}

/// Runs `work` with a ring, as a worker does.
fn on_worker<T, F: Future<Output = T>>(work: impl FnOnce(Ring) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let ring = Ring::new(RingConfig::default()).unwrap();
        tokio::task::spawn_local(ring.clone().drive());
        let outcome = work(ring.clone()).await;
        ring.stop().await;
        outcome
    })
}

/// Polls an append once: it is queued, or has begun.
async fn begin<F: Future + Unpin>(append: &mut F) {
    std::future::poll_fn(|context| {
        assert!(Pin::new(&mut *append).poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

type Appending<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// Producers that are all there before the first one writes. In `fsync` mode a commit takes half of
/// them.
async fn queued<'a, const N: usize>(
    partition: &'a Arc<Partition>,
    ring: &'a Ring,
    texts: [&str; N],
) -> [Appending<'a>; N] {
    let _alone = partition.appending.lock().await;
    let mut all = texts.map(|text| Box::pin(partition.append(ring, value(text))) as Appending<'_>);
    for append in &mut all {
        begin(append).await;
    }
    all
}

#[test]
fn producers_of_several_workers_each_hear_the_offset_their_record_has() {
    const WORKERS: usize = 3;
    const PRODUCERS: usize = 8;
    const RECORDS: usize = 40;
    for durability in [Durability::Os, Durability::Fsync] {
        let dir = tempfile::tempdir().unwrap();
        let partition = partition_in(dir.path(), durability);
        let produce = async |ring: &Ring, name: String| {
            let mut answered = Vec::new();
            for n in 0..RECORDS {
                let text = format!("{name} {n}");
                let appended = partition.append(ring, value(&text)).await.unwrap();
                answered.push((appended.base_offset.0, text));
            }
            answered
        };
        let work = |worker: usize| {
            on_worker(async |ring| {
                let name = |n| format!("worker {worker} producer {n}");
                let mut all: Vec<_> =
                    (0..PRODUCERS).map(|n| Box::pin(produce(&ring, name(n)))).collect();
                let mut answered = Vec::new();
                std::future::poll_fn(|context| {
                    all.retain_mut(|one| match one.as_mut().poll(context) {
                        Poll::Ready(some) => {
                            answered.extend(some);
                            false
                        }
                        Poll::Pending => true,
                    });
                    if all.is_empty() { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                answered
            })
        };
        let mut answered: Vec<(i64, String)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|n| scope.spawn(move || work(n))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        answered.sort();
        assert_eq!(answered, written(&dir.path().join(LOG_FILE)));
        let commits = &partition.commits;
        let (writes, appends) = (commits.writes.get(), commits.appends.get());
        assert_eq!(appends as usize, WORKERS * PRODUCERS * RECORDS);
        assert!(writes < appends / 2, "{writes} writes of {appends} appends");
        let syncs = if durability == Durability::Fsync { writes } else { 0 };
        assert_eq!(commits.syncs.get(), syncs);
    }
}

/// Offset and value of every record of a log file.
fn written(path: &Path) -> Vec<(i64, String)> {
    let bytes = fs::read(path).unwrap();
    let records = Batches::new(&bytes).flat_map(|batch| {
        let (_, batch) = batch.unwrap();
        penstock_batch::check_crc(batch).unwrap();
        penstock_batch::records(batch).unwrap().map(|record| {
            let record = record.unwrap();
            (record.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap())
        })
    });
    records.collect()
}

#[test]
fn a_refused_producer_does_not_fail_the_others_of_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition_in(dir.path(), Durability::Fsync);
    on_worker(async |ring| {
        partition.append(&ring, numbered(0)).await.unwrap();
        let mut first = Box::pin(partition.append(&ring, value("leads")));
        begin(&mut first).await;
        let waiting = [value("one"), numbered(0), numbered(5), numbered(1), value("two")];
        let mut waiting = waiting.map(|batches| Box::pin(partition.append(&ring, batches)));
        for append in &mut waiting {
            begin(append).await;
        }
        assert_eq!(first.await.unwrap().base_offset, Offset(1));
        let [one, duplicate, gap, next, two] = waiting;
        // Polled in any order; the first in the queue leads.
        let (one, duplicate, gap, next, two) = tokio::join!(one, duplicate, gap, next, two);
        assert_eq!(one.unwrap().base_offset, Offset(2));
        let refused = |outcome: Outcome| match outcome {
            Err(ProduceFailure::Refused(refused)) => refused,
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            refused(duplicate),
            AppendError::Duplicate { base_offset: Offset(0), .. }
        ));
        assert!(matches!(refused(gap), AppendError::OutOfOrderSequence { expected: 1, .. }));
        assert_eq!(next.unwrap().base_offset, Offset(3));
        assert_eq!(two.unwrap().base_offset, Offset(4));
        let commits = &partition.commits;
        assert_eq!((commits.writes.get(), commits.syncs.get(), commits.appends.get()), (3, 3, 5));
    });
}

#[test]
fn a_commit_takes_one_request_of_a_producer() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition_in(dir.path(), Durability::Os);
    on_worker(async |ring| {
        let mut first = Box::pin(partition.append(&ring, numbered(0)));
        begin(&mut first).await;
        let mut waiting =
            [1, 2].map(|sequence| Box::pin(partition.append(&ring, numbered(sequence))));
        for append in &mut waiting {
            begin(append).await;
        }
        let [second, third] = waiting;
        let (first, second, third) = tokio::join!(first, second, third);
        let offsets = [first, second, third].map(|outcome| outcome.unwrap().base_offset.0);
        assert_eq!((offsets, partition.commits.writes.get()), ([0, 1, 2], 3));
    });
}

/// The leader's worker ends while it lets the next commit go first.
#[test]
fn a_leader_that_leaves_when_all_is_done_has_told_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition_in(dir.path(), Durability::Fsync);
    on_worker(async |ring| {
        let all = queued(&partition, &ring, ["leads", "joins", "waits", "waits, too"]).await;
        let [mut leader, joined, _waits, _waits_too] = all;
        while partition.log().log_end() < Offset(2) {
            begin(&mut leader).await;
            tokio::task::yield_now().await;
        }
        drop(leader);
        assert_eq!(joined.await.unwrap().base_offset, Offset(1));
    });
}

/// fdatasync(2) of /dev/null fails, and its writes do not.
#[test]
fn a_failed_sync_fails_the_whole_commit_and_is_never_tried_again() {
    let (partition, _dir) = partition_on("/dev/null", Durability::Fsync);
    on_worker(async |ring| {
        let all = queued(&partition, &ring, ["first", "second", "third", "fourth"]).await;
        let [first, second, third, fourth] = all;
        let (first, second, third, fourth) = tokio::join!(first, second, third, fourth);
        for outcome in [first, second] {
            assert!(matches!(outcome, Err(ProduceFailure::Write(_))), "{outcome:?}");
        }
        for outcome in [third, fourth] {
            assert!(matches!(outcome, Err(ProduceFailure::Refused(AppendError::Offline))));
        }
        let refused = partition.append(&ring, value("fifth")).await.unwrap_err();
        assert!(matches!(refused, ProduceFailure::Refused(AppendError::Offline)), "{refused}");
        assert_eq!((partition.log().log_end(), partition.commits.syncs.get()), (Offset(0), 1));
    });
}

#[test]
fn without_fsync_nothing_is_synced() {
    let (partition, _dir) = partition_on("/dev/null", Durability::Os);
    on_worker(async |ring| {
        partition.append(&ring, value("kept")).await.unwrap();
        assert_eq!(partition.commits.syncs.get(), 0);
    });
}

fn set_flush_messages(partition: &Partition, messages: i64) {
    let flush_messages = Some(messages);
    partition.log().set_config(LogConfig { flush_messages, ..LogConfig::default() });
}

#[test]
fn the_record_that_completes_flush_messages_is_acknowledged_after_a_sync() {
    for (messages, expected) in [(1, 7), (2, 3), (3, 2), (8, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let partition = partition_in(dir.path(), Durability::Os);
        set_flush_messages(&partition, messages);
        on_worker(async |ring| {
            for _ in 0..7 {
                partition.append(&ring, value("x")).await.unwrap();
            }
        });
        assert_eq!(partition.commits.syncs.get(), expected, "every {messages}");
    }
}

#[test]
fn a_flush_of_the_log_counts_for_flush_messages() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition_in(dir.path(), Durability::Os);
    set_flush_messages(&partition, 2);
    let append_one = || {
        on_worker(async |ring| partition.append(&ring, value("x")).await.unwrap());
        partition.commits.syncs.get()
    };
    assert_eq!(append_one(), 0);
    assert!(partition.flush());
    assert_eq!(append_one(), 0, "the one before is on the disk");
    assert_eq!(append_one(), 1);
}

/// fdatasync(2) of /dev/null fails, and its writes do not.
#[test]
fn when_the_sync_that_flush_messages_asks_for_fails_its_commit_is_refused() {
    let (partition, _dir) = partition_on("/dev/null", Durability::Os);
    set_flush_messages(&partition, 3);
    on_worker(async |ring| {
        for _ in 0..2 {
            partition.append(&ring, value("kept")).await.unwrap();
        }
        let refused = partition.append(&ring, value("third")).await.unwrap_err();
        assert!(matches!(refused, ProduceFailure::Write(_)), "{refused}");
        let refused = partition.append(&ring, value("fourth")).await.unwrap_err();
        assert!(matches!(refused, ProduceFailure::Refused(AppendError::Offline)), "{refused}");
    });
    assert_eq!(partition.log().log_end(), Offset(2));
}

/// /dev/full has no room, and cannot be cut.
#[test]
fn a_file_that_cannot_be_cut_back_takes_the_partition_offline() {
    let (partition, _dir) = partition_on("/dev/full", Durability::Os);
    on_worker(async |ring| {
        let refused = partition.append(&ring, value("none")).await.unwrap_err();
        assert!(matches!(refused, ProduceFailure::Write(_)), "{refused}");
        assert!(partition.log().is_offline());
    });
}

#[test]
fn a_writer_that_ends_in_the_middle_leaves_an_answer_to_all_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition_in(dir.path(), Durability::Os);
    on_worker(async |ring| {
        let alone = partition.appending.lock().await;
        let mut leader = Box::pin(partition.append(&ring, value("leads")));
        begin(&mut leader).await;
        let mut joined = Box::pin(partition.append(&ring, value("joins")));
        begin(&mut joined).await;
        drop(alone);
        begin(&mut leader).await;
        let mut later = Box::pin(partition.append(&ring, value("came later")));
        begin(&mut later).await;
        drop(leader);
        assert!(matches!(joined.await, Err(ProduceFailure::GivenUp)));
        assert!(matches!(later.await, Err(ProduceFailure::Refused(AppendError::Offline))));
        assert_eq!(partition.log().log_end(), Offset(0));
    });
}

#[test]
fn the_lead_passes_over_producers_that_have_left() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition_in(dir.path(), Durability::Os);
    on_worker(async |ring| {
        let alone = partition.appending.lock().await;
        let mut leader = Box::pin(partition.append(&ring, value("never begins")));
        begin(&mut leader).await;
        let mut next = Box::pin(partition.append(&ring, value("leads and leaves")));
        let mut last = Box::pin(partition.append(&ring, value("stays")));
        begin(&mut next).await;
        begin(&mut last).await;
        drop(leader);
        drop(next);
        drop(alone);
        assert_eq!(last.await.unwrap().base_offset, Offset(0));
    });
}

/// A failed sync of a checkpoint may have been about bytes of an unfinished commit.
#[test]
fn a_checkpoint_that_fails_during_a_write_fails_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition_in(dir.path(), Durability::Os);
    on_worker(async |ring| {
        partition.append(&ring, value("before")).await.unwrap();
        let whole_bytes = partition.log().size_bytes();
        let flush = partition.log().begin_flush().unwrap();
        let mut writing = Box::pin(partition.append(&ring, value("meanwhile")));
        begin(&mut writing).await;
        partition.fail_flush(flush, FlushError::Sync(io::Error::other("the disk is gone")));
        let refused = writing.await.unwrap_err();
        assert!(matches!(refused, ProduceFailure::Write(_)), "{refused}");
        assert_eq!(partition.log().log_end(), Offset(1));
        assert_eq!(fs::metadata(dir.path().join(LOG_FILE)).unwrap().len(), whole_bytes);
    });
}

/// Its names may be those of a topic that was created again.
#[test]
fn a_checkpoint_that_fails_writes_nothing_again_by_the_names_of_a_deleted_partition() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition_in(dir.path(), Durability::Os);
    on_worker(async |ring| {
        partition.append(&ring, value("before")).await.unwrap();
    });
    let flush = partition.log().begin_flush().unwrap();
    partition.give_up_directory(|| Ok::<(), ()>(())).unwrap();
    let index = dir.path().join(LOG_FILE).with_extension("index");
    fs::write(&index, [0; 8]).unwrap();
    let long_ago = std::time::UNIX_EPOCH;
    fs::File::options().write(true).open(&index).unwrap().set_modified(long_ago).unwrap();
    partition.fail_flush(flush, FlushError::Sync(io::Error::other("the disk is gone")));
    assert!(partition.log().is_offline());
    assert_eq!(fs::metadata(&index).unwrap().modified().unwrap(), long_ago);
}
