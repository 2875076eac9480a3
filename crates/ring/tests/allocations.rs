//! The second request of a connection is answered without an allocation.

mod support;

use std::io::{Read, Write};
use std::rc::Rc;

use bytes::BytesMut;
use penstock_ring::{Backend, Path, Ring, Socket};
use support::*;
use tokio::task::LocalSet;

const ROUNDS: u64 = 100;
const HEADER: &[u8] = b"as long as a header, more or less";

/// Counts the allocations of `ROUNDS` requests and answers of `len_bytes` on the thread of the
/// ring, after as many have gone before.
fn allocations(backend: Backend, path: Path, len_bytes: u64) -> u64 {
    let file = file(len_bytes);
    let (socket, mut peer) = tcp();
    let peer = std::thread::spawn(move || {
        let mut answer = vec![0; HEADER.len() + len_bytes as usize];
        for _ in 0..2 * ROUNDS + 2 {
            peer.write_all(b"request").unwrap();
            peer.read_exact(&mut answer).unwrap();
        }
    });
    let answer = || [text(HEADER), range(&file, 0, len_bytes)];
    let serve = async |ring: &Ring, socket: &Rc<Socket>, rounds: u64| {
        let mut received = BytesMut::with_capacity(64);
        for _ in 0..rounds {
            let outcome;
            (outcome, received) = ring.recv(socket, received).await;
            assert_eq!(outcome.unwrap(), 7);
            received.clear();
            ring.transfer(answer(), socket, path).await.unwrap();
        }
    };

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    let _entered = runtime.enter();
    let ring = Ring::new(config(backend)).unwrap();
    local.spawn_local(ring.clone().drive());
    let run = |rounds| local.block_on(&runtime, serve(&ring, &socket, rounds));
    let counted = |rounds| allocation_counter::measure(|| run(rounds)).count_total;
    run(ROUNDS);
    let allocations = counted(1 + ROUNDS) - counted(1); // the runtime has some a call
    local.block_on(&runtime, ring.stop());
    peer.join().unwrap();
    allocations
}

#[test]
fn an_answer_that_is_cached_allocates_nothing() {
    for backend in [Backend::Uring, Backend::Epoll] {
        for path in [Path::Auto, Path::Sendfile, Path::Copy] {
            for len_bytes in [4 << 10, 64 << 10, 1 << 20] {
                let allocations = allocations(backend, path, len_bytes);
                assert_eq!(allocations, 0, "{backend:?}, {path:?}, {len_bytes} bytes");
            }
        }
    }
}

#[test]
fn a_chain_allocates_what_the_kernel_owns_and_the_list_of_its_requests() {
    let allocations = allocations(Backend::Uring, Path::Chain, 64 << 10);
    assert_eq!(allocations, 2 * ROUNDS);
}
