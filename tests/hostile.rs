//! Frames from strangers and attackers: the server closes the connection or answers with an error,
//! claimed lengths reserve no memory, and the server goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use penstock_tests::records::batch_of;
use penstock_tests::{Penstock, Start, produce_request};
use penstock_wire::messages::{FetchRequest, FetchTopic, MetadataRequest};
use penstock_wire::{Request, Response, SUPPORTED};

/// Bytes by which the process may grow under all attacks of one kind.
const GROWTH_MAX_BYTES: u64 = 1 << 20;

fn server() -> (tempfile::TempDir, Penstock) {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    (dir, server)
}

/// Sends raw bytes and returns the server's bytes until it closes or falls silent.
fn attack(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The server may close before all bytes are sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn assert_serves(server: &mut Penstock) {
    assert!(server.is_running(), "the server died");
    let request = Request::Metadata(MetadataRequest::default());
    server.client().unwrap().ask(&request).expect("good clients are still served");
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

#[test]
fn strangers_are_closed_without_an_answer() {
    let (_dir, mut server) = server();
    let tls_hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc];
    let strangers: [&[u8]; 8] = [
        &tls_hello,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /topics HTTP/1.1\r\n\r\n",
        &(-1i32).to_be_bytes(),
        &i32::MIN.to_be_bytes(),
        &i32::MAX.to_be_bytes(),
        &0i32.to_be_bytes(),
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
    ];
    for stranger in strangers {
        assert_eq!(attack(server.address(), stranger), b"", "{stranger:?}");
    }
    assert_serves(&mut server);
}

#[test]
fn a_large_claim_reserves_nothing() {
    let (_dir, mut server) = server();
    assert_serves(&mut server);
    let before = server.resident_bytes().unwrap();
    let claim = (100i32 << 20).to_be_bytes();
    let held: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(&claim).unwrap();
            stream.write_all(b"and then nothing").unwrap();
            stream
        })
        .collect();
    assert_serves(&mut server);
    let grown = server.resident_bytes().unwrap().saturating_sub(before);
    // 50 connections cost their own memory. They claim 5 GB.
    assert!(grown < 8 * GROWTH_MAX_BYTES, "grew by {grown} bytes");
    drop(held);
}

#[test]
fn counts_of_two_billion_in_every_request_and_version_are_survived() {
    let (_dir, mut server) = server();
    let mut bodies = Vec::new();
    for api in SUPPORTED {
        for version in api.advertised_min_version()..=api.max_version {
            bodies.extend(hostile_bodies(api.key as i16, version));
        }
    }
    assert!(bodies.len() > 1000, "{} bodies", bodies.len());
    // The first pass lets the allocator settle, the second is measured.
    let attack_all = |server: &Penstock| {
        for body in &bodies {
            attack(server.address(), &frame(body));
        }
    };
    attack_all(&server);
    let before = server.resident_bytes().unwrap();
    attack_all(&server);
    let grown = server.resident_bytes().unwrap().saturating_sub(before);
    assert!(grown < GROWTH_MAX_BYTES, "grew by {grown} bytes over {} frames", bodies.len());
    assert_serves(&mut server);
}

/// Headers of one API and version with bodies of large counts only, and of counts after some
/// plausible bytes, also in the compact form.
fn hostile_bodies(api_key: i16, version: i16) -> Vec<Vec<u8>> {
    let mut header = Vec::new();
    header.extend_from_slice(&api_key.to_be_bytes());
    header.extend_from_slice(&version.to_be_bytes());
    header.extend_from_slice(&7i32.to_be_bytes());
    header.extend_from_slice(&(-1i16).to_be_bytes());
    let count = i32::MAX.to_be_bytes();
    let compact = [0xff, 0xff, 0xff, 0xff, 0x07];
    let mut bodies = Vec::new();
    for tags in [&[][..], &[0]] {
        for zeros in [0, 1, 2, 4, 5, 8, 10, 12, 16, 20, 25, 32] {
            for claim in [&count[..], &compact] {
                let mut body = header.clone();
                body.extend_from_slice(tags);
                body.extend(std::iter::repeat_n(0, zeros));
                for _ in 0..4 {
                    body.extend_from_slice(claim);
                }
                bodies.push(body);
            }
        }
    }
    bodies
}

#[test]
fn what_comes_behind_a_large_request_does_not_keep_its_memory() {
    let (_dir, mut server) = server();
    assert_serves(&mut server);
    let large = produce_request("nowhere", 0, 1, batch_of(1_500_000)).encode(8, 1, "large");
    let small = Request::from(MetadataRequest::default()).encode(1, 2, "small");
    let before = server.resident_bytes().unwrap();
    let held: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(&[&large[..], &small[..]].concat()).unwrap();
            for _ in [&large, &small] {
                let mut length = [0; 4];
                stream.read_exact(&mut length).unwrap();
                stream.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize]).unwrap();
            }
            stream
        })
        .collect();
    let grown = server.resident_bytes().unwrap().saturating_sub(before);
    // 75 MB were sent.
    assert!(grown < 16 * GROWTH_MAX_BYTES, "grew by {grown} bytes");
    drop(held);
}

#[test]
fn a_long_poll_for_no_partition_waits_for_nothing() {
    let (_dir, mut server) = server();
    let topics = (0..20_000).map(|_| FetchTopic::default()).collect();
    let fetch =
        FetchRequest { max_wait_ms: 300_000, min_bytes: 1, topics, ..FetchRequest::default() };
    let mut client = server.client().unwrap();
    let Response::Fetch(answer) = client.ask(&Request::Fetch(fetch)).unwrap() else { panic!() };
    assert!(answer.responses.is_empty(), "{} topics", answer.responses.len());
    assert_serves(&mut server);
}

#[test]
fn an_unknown_version_of_api_versions_is_told_what_there_is() {
    let (_dir, server) = server();
    let mut body = vec![0, 18, 0x7f, 0xff];
    body.extend_from_slice(&42i32.to_be_bytes());
    body.extend_from_slice(&(-1i16).to_be_bytes());
    let answer = attack(server.address(), &frame(&body));
    assert_eq!(answer[4..8], 42i32.to_be_bytes());
    assert_eq!(answer[8..10], 35i16.to_be_bytes());
    let rows = i32::from_be_bytes(answer[10..14].try_into().unwrap());
    assert_eq!(rows as usize, SUPPORTED.len());
}

#[test]
fn a_frame_that_never_completes_is_closed_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).set(&[("frame.timeout.ms", "1000")]).start().unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&[0, 0, 1, 0, 0, 3]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed, not timed out here");
}
