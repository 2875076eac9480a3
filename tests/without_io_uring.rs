//! A host that forbids io_uring: the server logs it and serves all the same.

use std::os::unix::process::CommandExt;
use std::process::Command;

use penstock_tests::records::{batch, batch_of, bytes_of, records_from};
use penstock_tests::{Penstock, Start, program};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Set in the process that installs the filter and becomes the server.
const BECOME_SERVER: &str = "TEST_BECOME_SERVER_WITHOUT_IO_URING";

const IO_URING_SETUP: i64 = 425;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// No test by itself: the re-executed process runs this and never returns.
#[test]
fn become_the_server_when_told_to() {
    let Ok(order) = std::env::var(BECOME_SERVER) else { return };
    let (errno, arguments) = order.split_once(' ').unwrap();
    let rules = [(IO_URING_SETUP, vec![])].into_iter().collect();
    let refuse = SeccompAction::Errno(errno.parse().unwrap());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    let rules: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&rules).unwrap();
    let error = program("penstock").args(arguments.split(' ')).env_remove(BECOME_SERVER).exec();
    panic!("cannot become the server: {error}");
}

fn serves_without_io_uring(errno: u32) {
    let dir = tempfile::tempdir().unwrap();
    let arguments = Start::on(dir.path()).with(&["--fetch-path", "chain"]).arguments();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "become_the_server_when_told_to", "--nocapture"]);
    command.env(BECOME_SERVER, format!("{errno} {}", arguments.join(" ")));
    // With one thread, as on one core, the test's name would precede the server's first line.
    command.env("RUST_TEST_THREADS", "2");
    let server = Penstock::start(command).unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("t", 1, &[]).unwrap();
    client.produce("t", 0, 1, batch(&["first"])).unwrap();
    client.produce("t", 0, 1, batch_of(900_000)).unwrap();
    let fetched = bytes_of(&client.fetch("t", 0, 0).unwrap());
    let records = records_from(&fetched, 0);
    assert_eq!((records[0].1.as_slice(), records[1].1.len()), (&b"first"[..], 900_000));
    let metrics = server.metrics().unwrap();
    let by_sendfile = metrics.value("penstock_sent_bytes_total{path=\"sendfile\"}");
    assert_eq!(by_sendfile, fetched.len() as u64, "what was to be chained went by sendfile");
    assert_eq!(metrics.value("penstock_ring_enters_total"), 0);
    server.stop().unwrap();
}

#[test]
fn serves_where_io_uring_is_forbidden() {
    serves_without_io_uring(EPERM);
}

#[test]
fn serves_where_io_uring_is_unknown() {
    serves_without_io_uring(ENOSYS);
}
