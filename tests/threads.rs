//! A server at its limit of threads: no partition goes offline, and everything works again once
//! there are threads.
//!
//! The limit is that of a cgroup (harness/pids.rs). It is set to the current number of threads
//! while the server starts, appends, rolls, creates topics and answers fetches of uncached data.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_tests::load::Load;
use penstock_tests::pids::Pids;
use penstock_tests::producer::End;
use penstock_tests::records::{batch_of, bytes_of, records_from};
use penstock_tests::rounds::{Dice, is_soak, rounds, say};
use penstock_tests::{Client, Penstock, Start, binary, program};
use penstock_wire::messages::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use penstock_wire::{ErrorCode, Request, Response};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const TOPIC: &str = "t";
const PARTITIONS: i32 = 3;
const VALUE_BYTES: usize = 100_000;
/// Segments so small that every few batches roll.
const SEGMENT_BYTES: &str = "400000";

/// Time within which everything works again once there are threads.
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// Time after which kernel and server have ended the threads that they do not keep.
const THREADS_IDLE: Duration = Duration::from_secs(17);

/// Threads that are surely enough for a start.
const THREADS_ENOUGH: usize = 40;

/// Set in the process that forbids itself io_uring and becomes the server.
const BECOME_SERVER: &str = "TEST_BECOME_SERVER_AT_THE_LIMIT_OF_THREADS";

/// No test by itself: the re-executed process runs this and never returns.
#[test]
fn become_the_server_without_io_uring_when_told_to() {
    const IO_URING_SETUP: i64 = 425;
    const EPERM: u32 = 1;
    let Ok(arguments) = std::env::var(BECOME_SERVER) else { return };
    let rules = [(IO_URING_SETUP, vec![])].into_iter().collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let refuse = SeccompAction::Errno(EPERM);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    let rules: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&rules).unwrap();
    let mut command = program("penstock");
    let error = command.args(arguments.split(' ')).env_remove(BECOME_SERVER).exec();
    panic!("cannot become the server: {error}");
}

/// The operations of a test.
type Step = fn(&mut Limited);

/// A server in a cgroup of its own, and the records that it acknowledged.
struct Limited {
    // Dropped before the group, which can be removed only without the process.
    server: Penstock,
    group: Pids,
    data_dir: PathBuf,
    client: Client,
    /// Records of each partition.
    acknowledged: [i64; PARTITIONS as usize],
    topics: usize,
}

impl Limited {
    fn new(server: Penstock, group: Pids, data_dir: &Path) -> Limited {
        let mut client = server.client().unwrap();
        client.create_topic(TOPIC, PARTITIONS, &[("segment.bytes", SEGMENT_BYTES)]).unwrap();
        let (data_dir, acknowledged) = (data_dir.to_owned(), [0; PARTITIONS as usize]);
        Limited { server, group, data_dir, client, acknowledged, topics: 0 }
    }

    fn append(&mut self) {
        for partition in 0..PARTITIONS {
            let answer = self.client.produce(TOPIC, partition, 1, batch_of(VALUE_BYTES)).unwrap();
            assert_eq!(answer.error_code, ErrorCode::NONE, "partition {partition}");
            self.acknowledged[partition as usize] += 1;
        }
    }

    fn roll(&mut self) {
        let before = self.segments(0).len();
        while self.segments(0).len() < before + 2 {
            self.append();
        }
    }

    fn create(&mut self) {
        self.topics += 1;
        let name = format!("created-{}", self.topics);
        self.client.create_topic(&name, 2, &[]).unwrap();
        let answer = self.client.produce(&name, 1, 1, batch_of(10)).unwrap();
        assert_eq!(answer.error_code, ErrorCode::NONE);
    }

    /// Reads all records from the disk, after their eviction from the page cache.
    fn fetch_cold(&mut self) {
        for partition in 0..PARTITIONS {
            for path in self.segments(partition) {
                let file = File::open(path).unwrap();
                rustix::fs::fdatasync(&file).unwrap();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            }
            let mut offset = 0;
            while offset < self.acknowledged[partition as usize] {
                let fetched = self.client.fetch(TOPIC, partition, offset).unwrap();
                let records = records_from(&bytes_of(&fetched), offset);
                assert!(!records.is_empty(), "nothing at {offset} of partition {partition}");
                let sent: Bytes = batch_of(VALUE_BYTES);
                let sent = records_from(&sent, 0).remove(0).1;
                for (at, value) in records {
                    assert_eq!(at, offset);
                    assert!(value == sent, "record {at} of partition {partition} is another one");
                    offset += 1;
                }
            }
            assert_eq!(offset, self.acknowledged[partition as usize]);
        }
    }

    fn segments(&self, partition: i32) -> Vec<PathBuf> {
        let dir = self.data_dir.join(format!("{TOPIC}-{partition}"));
        let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect()
    }

    /// Does `what` at the limit, then everything else with threads.
    fn at_the_limit(&mut self, what: &str, step: Step) {
        self.group.limit_to_present();
        let present = self.group.count();
        step(self);
        self.group.lift();
        let lifted = Instant::now();
        for step in [Limited::append, Limited::create, Limited::fetch_cold] {
            step(self);
        }
        let again = lifted.elapsed();
        assert!(again < AGAIN_MAX, "{what}: all worked again only after {again:?}");
        let offline = self.server.metrics().unwrap().value("penstock_partitions_offline");
        assert_eq!(offline, 0, "{what} at {present} threads");
    }
}

fn command_of(group: &Pids, start: &Start, with_io_uring: bool) -> Command {
    if with_io_uring {
        return group.enter(&binary("penstock"), start.arguments());
    }
    let test = std::env::current_exe().unwrap();
    let name = "become_the_server_without_io_uring_when_told_to";
    let mut command = group.enter(&test, ["--exact", name, "--nocapture"]);
    command.env(BECOME_SERVER, start.arguments().join(" ")).env("RUST_TEST_THREADS", "2");
    command
}

fn nothing_goes_offline(durability: &str, fetch_path: &str, with_io_uring: bool) {
    let Some(group) = Pids::make() else { return };
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path());
    let start = start.with(&["--durability", durability, "--fetch-path", fetch_path]);
    let command = command_of(&group, &start, with_io_uring);
    let mut limited = Limited::new(Penstock::start(command).unwrap(), group, dir.path());
    let steps: [(&str, Step); 4] = [
        ("append", Limited::append),
        ("roll", Limited::roll),
        ("create", Limited::create),
        ("cold fetch", Limited::fetch_cold),
    ];
    for round in 0..rounds(1, 2) {
        for (what, step) in steps {
            // The limit is at first the number since the start, later it includes threads that are
            // left over.
            if is_soak() && round > 0 {
                std::thread::sleep(THREADS_IDLE);
            }
            limited.at_the_limit(what, step);
        }
    }
    limited.group.limit_to_present();
    let Limited { server, group, acknowledged, .. } = limited;
    server.stop().unwrap();
    assert!(dir.path().join(".kafka_cleanshutdown").exists(), "the stop at the limit is clean");

    group.lift();
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    for (partition, acknowledged) in (0..).zip(acknowledged) {
        assert_eq!(client.offset_of(TOPIC, partition, -1).unwrap(), acknowledged);
    }
    drop(server);
}

#[test]
fn nothing_goes_offline_at_the_limit_of_threads() {
    nothing_goes_offline("os", "auto", true);
}

#[test]
fn nothing_goes_offline_at_the_limit_of_threads_with_syncs_and_chains() {
    nothing_goes_offline("fsync", "chain", true);
}

#[test]
fn nothing_goes_offline_at_the_limit_of_threads_without_io_uring() {
    nothing_goes_offline("fsync", "auto", false);
}

/// All threads that a server needs exist when it serves, so it can run at a limit of just that
/// many.
#[test]
fn a_start_has_all_the_threads_it_needs_or_is_refused_with_words_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path()).with(&["--durability", "fsync"]);
    let server = start.start().unwrap();
    server.client().unwrap().create_topic("before", 1, &[]).unwrap();
    server.stop().unwrap();
    let lines = tempfile::NamedTempFile::new().unwrap();
    for threads in 1..THREADS_ENOUGH {
        let Some(group) = Pids::make() else { return };
        group.limit(threads);
        let mut command = command_of(&group, &start, true);
        command.stderr(lines.reopen().unwrap());
        lines.as_file().set_len(0).unwrap();
        let refused = match Penstock::start(command) {
            Ok(server) => {
                say(format_args!("a server of one worker needs {threads} threads"));
                return serves_with_no_more(Limited::new(server, group, dir.path()));
            }
            Err(refused) => refused.to_string(),
        };
        let words = std::fs::read_to_string(lines.path()).unwrap();
        assert!(refused.ends_with("exit status: 1"), "{threads} threads: {refused}: {words}");
        assert!(words.contains("pids.max"), "{threads} threads: {words}");
        assert!(!words.contains("panicked"), "{threads} threads: {words}");
        assert!(dir.path().join(".kafka_cleanshutdown").exists(), "the next start believes it");
    }
    panic!("{THREADS_ENOUGH} threads are not enough");
}

fn serves_with_no_more(mut limited: Limited) {
    for step in [Limited::append, Limited::roll, Limited::create, Limited::fetch_cold] {
        step(&mut limited);
    }
    let metrics = limited.server.metrics().unwrap();
    assert_eq!(metrics.value("penstock_partitions_offline"), 0);
    limited.server.stop().unwrap();
}

/// The limit comes and goes under load: every record is acknowledged, and none is lost or doubled.
#[test]
fn a_limit_of_threads_that_comes_and_goes_costs_a_load_nothing_but_time() {
    let mut dice = Dice::of("a limit of threads that comes and goes");
    let Some(group) = Pids::make() else { return };
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path()).with(&["--durability", "fsync", "--fetch-path", "chain"]);
    let server = Penstock::start(command_of(&group, &start, true)).unwrap();
    let mut load = Load::create(&mut server.client().unwrap(), &mut dice);
    let ended = load.under(server.address(), |journal| {
        for _ in 0..rounds(10, 300) {
            group.limit_to_present();
            journal.wait_for_more(dice.within(5..50));
            group.lift();
            journal.wait_for_more(dice.within(5..50));
        }
    });
    let ends = [&ended.producers[..], &ended.consumers[..]].concat();
    assert!(ends.iter().all(|end| *end == End::Stopped), "{ended:?}");
    assert_eq!(server.metrics().unwrap().value("penstock_partitions_offline"), 0);
    load.witness(dir.path()).check(&mut server.client().unwrap(), load.journal());
    server.stop().unwrap();
}

/// Each change of a topic with syncs waits for its appends on a thread that may block. These
/// appends may need such a thread themselves.
#[test]
fn many_changes_of_a_topic_at_once_take_no_producer_the_threads_it_needs() {
    const CHANGING: usize = 12;
    const PRODUCING: usize = 4;
    let Some(group) = Pids::make() else { return };
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path()).with(&["--durability", "fsync"]);
    let server = Penstock::start(command_of(&group, &start, false)).unwrap();
    server.client().unwrap().create_topic(TOPIC, 1, &[]).unwrap();
    group.limit_to_present();
    let times = if is_soak() { 1000 } else { 100 };
    std::thread::scope(|scope| {
        for _ in 0..CHANGING {
            scope.spawn(|| change_again_and_again(&mut server.client().unwrap(), times));
        }
        for _ in 0..PRODUCING {
            scope.spawn(|| {
                let mut client = server.client().unwrap();
                for _ in 0..times {
                    let answer = client.produce(TOPIC, 0, 1, batch_of(10)).unwrap();
                    assert_eq!(answer.error_code, ErrorCode::NONE);
                }
            });
        }
    });
    server.stop().unwrap();
}

fn change_again_and_again(client: &mut Client, times: usize) {
    for n in 0..times {
        let config = AlterableConfig {
            name: "segment.ms".into(),
            config_operation: 0,
            value: Some((100_000 + n).to_string().into()),
        };
        let resource = AlterConfigsResource {
            resource_type: 2,
            resource_name: TOPIC.into(),
            configs: vec![config],
        };
        let request =
            IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        match client.ask(&Request::IncrementalAlterConfigs(request)).unwrap() {
            Response::IncrementalAlterConfigs(answer) => {
                assert_eq!(answer.responses[0].error_code, ErrorCode::NONE);
            }
            _ => panic!("not an answer to IncrementalAlterConfigs"),
        }
    }
}
