//! SIGTERM under load: no acknowledged record is lost, the stop is clean, and the next start relies
//! on it. Who waits is answered.

use std::path::Path;

use penstock_tests::load::{Load, PARTITIONS, TOPIC};
use penstock_tests::member::{JOIN_VERSION, join_request};
use penstock_tests::producer::End;
use penstock_tests::rounds::{Dice, rounds, say};
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::messages::{JoinGroupResponse, SyncGroupRequest, SyncGroupRequestAssignment};
use penstock_wire::{ApiKey, ErrorCode, Request, Response, decode_response};

const REQUESTS_MAX: usize = 1500;

/// The most bytes that a start reads without a scan: libraries, small files, and the part of each
/// active segment behind its last index entry.
const START_READS_MAX_BYTES: u64 = 512 << 10;

#[test]
fn a_stop_under_load_answers_what_is_in_flight_and_the_next_start_scans_nothing() {
    let mut dice = Dice::of("stops under load");
    let stops = rounds(3, 20);
    let dir = tempfile::tempdir().unwrap();
    let mut server = Start::on(dir.path()).start().unwrap();
    let mut load = Load::create(&mut server.client().unwrap(), &mut dice);
    let (mut log_bytes, mut start_bytes) = (0, 0);
    for _ in 0..stops {
        let ended = load.under(server.address(), |journal| {
            journal.wait_for_more(dice.within(400..REQUESTS_MAX));
            // Waits for exit code 0. Each producer waits for each answer, and panics if none comes
            // within a minute.
            server.stop().unwrap();
        });
        let ends = [&ended.producers[..], &ended.consumers[..]].concat();
        assert!(ends.iter().all(|end| *end == End::Broken), "{ended:?}");
        assert!(dir.path().join(".kafka_cleanshutdown").exists());

        server = Start::on(dir.path()).start().unwrap();
        start_bytes = read_bytes(&server).max(start_bytes);
        log_bytes = log_len_bytes(dir.path());
        load.witness(dir.path()).check(&mut server.client().unwrap(), load.journal());
    }
    say(format_args!(
        "{stops} stops, {} requests acknowledged; the last log has {log_bytes} bytes, no start read more than {start_bytes}",
        load.journal().acknowledgements()
    ));
    assert!(log_bytes > 4 * START_READS_MAX_BYTES, "{log_bytes} bytes show nothing");
    assert!(start_bytes < START_READS_MAX_BYTES, "{start_bytes} bytes");
}

/// Bytes that a process has read by system calls so far (proc_pid_io(5), rchar).
fn read_bytes(server: &Penstock) -> u64 {
    let books = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).unwrap();
    books.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

fn log_len_bytes(data_dir: &Path) -> u64 {
    let partitions = (0..PARTITIONS).map(|index| data_dir.join(format!("{TOPIC}-{index}")));
    let files = partitions.flat_map(|dir| std::fs::read_dir(dir).unwrap());
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

fn answer(client: &mut Client, api: ApiKey, version: i16) -> Response {
    decode_response(api, version, client.receive().unwrap()).unwrap().1
}

fn joined(client: &mut Client) -> JoinGroupResponse {
    let Response::JoinGroup(joined) = answer(client, ApiKey::JoinGroup, JOIN_VERSION) else {
        panic!("not an answer to JoinGroup")
    };
    joined
}

#[test]
fn members_that_wait_for_their_group_are_answered_by_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let delay = [("group.initial.rebalance.delay.ms", "1000")];
    let server = Start::on(dir.path()).set(&delay).start().unwrap();
    let [mut first, mut second, mut alone, mut joining] = [0; 4].map(|_| server.client().unwrap());
    first.send(&join_request("synced by none"), JOIN_VERSION).unwrap();
    second.send(&join_request("synced by none"), JOIN_VERSION).unwrap();
    alone.send(&join_request("joined by one more"), JOIN_VERSION).unwrap();
    let members = [&mut first, &mut second, &mut alone].map(joined);
    assert!(members.iter().all(|member| member.error_code == ErrorCode::NONE));

    // Waits for its leader, and the other one for a member that would have to join again. It is so
    // long that another thread answers it, which takes longer than the end of receiving.
    let leads = members[0].member_id == members[0].leader;
    let (follower, member) =
        if leads { (&mut second, &members[1]) } else { (&mut first, &members[0]) };
    let request = SyncGroupRequest {
        group_id: "synced by none".into(),
        generation_id: member.generation_id,
        member_id: member.member_id.clone(),
        assignments: vec![SyncGroupRequestAssignment::default(); 5000],
        ..Default::default()
    };
    follower.send(&Request::SyncGroup(request), 1).unwrap();
    joining.send(&join_request("joined by one more"), JOIN_VERSION).unwrap();
    // The one worker has received both before it answers this.
    server.client().unwrap().create_topic("t", 1, &[]).unwrap();
    server.stop().unwrap();

    assert_eq!(joined(&mut joining).error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    let Response::SyncGroup(synced) = answer(follower, ApiKey::SyncGroup, 1) else {
        panic!("not an answer to SyncGroup")
    };
    assert_eq!(synced.error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
}
