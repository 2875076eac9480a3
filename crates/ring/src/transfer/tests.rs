//! Plans and results by example; fake.rs has the properties.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use super::*;

const CHAIN: Means = Means::Chain { hop_bytes: 256 * 1024, pipe_slots: 64 };
const ECANCELED: i32 = -libc::ECANCELED;

fn text(bytes: &'static [u8]) -> Piece {
    Piece::Bytes(Bytes::from_static(bytes))
}

fn range(position: u64, len_bytes: u64) -> Piece {
    Piece::File { file: Arc::new(File::open("/dev/null").unwrap()), position, len_bytes }
}

fn plan(transfer: &mut Transfer) -> Vec<Op> {
    match transfer.next() {
        Next::Do(plan) => plan.to_vec(),
        ended => panic!("{ended:?}"),
    }
}

#[test]
fn an_answer_that_fits_is_one_chain() {
    let mut transfer = Transfer::new(vec![text(b"head"), range(8192, 1000), text(b"tail")], CHAIN);
    assert_eq!(
        plan(&mut transfer),
        [
            Op::Send { piece: 0, from: 0, len_bytes: 4, more: true },
            Op::Fill { piece: 1, position: 8192, len_bytes: 1000 },
            Op::Drain { len_bytes: 1000, more: true },
            Op::Send { piece: 2, from: 0, len_bytes: 4, more: false },
        ]
    );
    transfer.apply(&[4, 1000, 1000, 4]);
    assert_eq!(transfer.next(), Next::Done);
}

#[test]
fn the_first_hop_of_an_unaligned_range_is_shorter_and_the_others_are_aligned() {
    let mut transfer = Transfer::new(vec![range(100, 600_000)], CHAIN);
    let fills: Vec<_> = plan(&mut transfer)
        .into_iter()
        .filter_map(|op| match op {
            Op::Fill { position, len_bytes, .. } => Some((position, len_bytes)),
            _ => None,
        })
        .collect();
    assert_eq!(fills, [(100, 262_044), (262_144, 262_144), (524_288, 75_812)]);
}

#[test]
fn after_a_full_socket_the_residue_leaves_before_anything_new_is_planned() {
    let mut transfer = Transfer::new(vec![range(0, 300_000)], CHAIN);
    plan(&mut transfer);
    transfer.apply(&[262_144, 100_000, ECANCELED, ECANCELED]);
    let residue = Op::Drain { len_bytes: 162_144, more: true };
    assert_eq!(plan(&mut transfer), [Op::PollOut, residue]);
    assert!(!transfer.is_at_a_turn(), "what is staged must leave as it came");
    transfer.apply(&[i32::from(libc::POLLOUT), 162_144]);
    assert!(transfer.is_at_a_turn());
    assert_eq!(
        plan(&mut transfer),
        [
            Op::Fill { piece: 0, position: 262_144, len_bytes: 37_856 },
            Op::Drain { len_bytes: 37_856, more: false },
        ]
    );
}

#[test]
fn a_parked_transfer_only_waits_and_then_fills_again_from_what_was_sent() {
    let mut transfer = Transfer::new(vec![range(0, 5000)], CHAIN);
    plan(&mut transfer);
    transfer.apply(&[5000, 1000]);
    transfer.forget_staged();
    assert!(!transfer.wants_pipe());
    assert_eq!(plan(&mut transfer), [Op::PollOut]);
    transfer.apply(&[i32::from(libc::POLLOUT)]);
    assert!(transfer.wants_pipe());
    assert_eq!(plan(&mut transfer)[0], Op::Fill { piece: 0, position: 1000, len_bytes: 4000 });
}

#[test]
fn a_small_answer_is_copied_into_one_send() {
    let pieces = vec![text(b"head"), range(7, 1000), text(b"tail")];
    let mut transfer = Transfer::new(pieces, Means::Copy { stage_bytes: 65_536 });
    assert_eq!(*plan(&mut transfer).last().unwrap(), Op::Drain { len_bytes: 1008, more: false });
    transfer.apply(&[4, 1000, 4, 1008]);
    assert_eq!(transfer.next(), Next::Done);
}

#[test]
fn a_chain_that_ran_past_its_break_fails() {
    let mut transfer = Transfer::new(vec![text(b"head"), range(0, 10)], CHAIN);
    plan(&mut transfer);
    transfer.apply(&[2, 10, 10]);
    assert_eq!(transfer.next(), Next::Failed(TransferError::OutOfOrder { index: 1, result: 10 }));
}

#[test]
fn internal_errnos_of_the_kernel_are_kept_as_numbers() {
    let mut transfer = Transfer::new(vec![range(0, 10)], CHAIN);
    plan(&mut transfer);
    transfer.apply(&[-512, ECANCELED]);
    assert_eq!(transfer.next(), Next::Failed(TransferError::Os(512)));
}

#[test]
fn what_cannot_be_read_is_named_and_whether_anything_was_sent_before() {
    let failed = |means, results: &[i32]| {
        let pieces = vec![text(b"head"), range(0, 70), text(b"middle"), range(900, 50)];
        let mut transfer = Transfer::new(pieces, means);
        plan(&mut transfer);
        transfer.apply(results);
        match transfer.next() {
            Next::Failed(TransferError::Read { range, position, errno, is_begun, .. }) => {
                (range, position, errno, is_begun)
            }
            next => panic!("{next:?}"),
        }
    };
    let (copy, cancelled) = (Means::Copy { stage_bytes: 1000 }, -libc::ECANCELED);
    let at_once = failed(copy, &[4, 70, 6, -libc::EIO, cancelled]);
    assert_eq!(at_once, (1, 900, libc::EIO, false));
    let by_sendfile = failed(Means::Sendfile, &[4, 70, 6, -libc::EIO]);
    assert_eq!(by_sendfile, (1, 900, libc::EIO, true));
    let chained = [4, -libc::ENOTCONN, cancelled, cancelled, cancelled, cancelled];
    assert_eq!(failed(CHAIN, &chained), (0, 0, libc::ENOTCONN, true));
}

#[test]
fn nothing_to_send_is_done() {
    for means in [CHAIN, Means::Sendfile, Means::Copy { stage_bytes: 10 }] {
        let mut transfer = Transfer::new(vec![text(b""), range(5, 0)], means);
        assert!(!transfer.wants_pipe());
        assert_eq!(transfer.next(), Next::Done);
    }
}

/// A fetch of many partitions has twice as many pieces. Once each turn looked at all pieces that
/// were left.
#[test]
fn a_turn_looks_at_no_more_pieces_than_a_plan_moves_however_many_there_are() {
    const PARTITIONS: u64 = 5_000;
    for means in [CHAIN, Means::Sendfile, Means::Copy { stage_bytes: 65_536 }] {
        // One file: descriptors are few.
        let records = range(0, 70);
        let one = |_| [text(b"head"), records.clone(), text(b"")];
        let pieces: Vec<_> = (0..PARTITIONS).flat_map(one).collect();
        let mut transfer = Transfer::new(pieces, means);
        let (mut left_bytes, mut ranges) = (PARTITIONS * 74, 0);
        while transfer.next() != Next::Done {
            assert_eq!(transfer.rest_bytes(), left_bytes);
            ranges += transfer.next_ranges(u64::MAX).count() as u64;
            let results: Vec<i32> = transfer.plan().iter().map(whole).collect();
            transfer.apply(&results);
            let tally = transfer.take_tally();
            left_bytes -= tally.file_bytes + tally.header_bytes;
        }
        assert_eq!((transfer.rest_bytes(), left_bytes), (0, 0));
        assert!(ranges <= 2 * PARTITIONS, "{ranges} looks at {PARTITIONS} ranges, {means:?}");
    }
}

/// The result of an operation that moves all requested bytes.
fn whole(op: &Op) -> i32 {
    match *op {
        Op::PollOut => i32::from(libc::POLLOUT),
        Op::Send { len_bytes, .. }
        | Op::Gather { len_bytes, .. }
        | Op::Fill { len_bytes, .. }
        | Op::Drain { len_bytes, .. }
        | Op::SendFile { len_bytes, .. } => len_bytes as i32,
    }
}

const COPY: Means = Means::Copy { stage_bytes: 65_536 };

/// At the limit of threads the kernel has no worker for the splices behind the head. Once answers
/// were cut there.
#[test]
fn what_a_chain_is_refused_after_the_head_goes_on_by_other_means() {
    let mut transfer = Transfer::new(vec![text(b"head"), range(0, 1000), text(b"tail")], CHAIN);
    plan(&mut transfer);
    transfer.apply(&[4, ECANCELED, ECANCELED, ECANCELED]);
    assert!(transfer.is_refused());
    transfer.leave_chain(COPY);
    assert_eq!(
        plan(&mut transfer),
        [
            Op::Fill { piece: 1, position: 0, len_bytes: 1000 },
            Op::Gather { piece: 2, from: 0, len_bytes: 4 },
            Op::Drain { len_bytes: 1004, more: false },
        ]
    );
    transfer.apply(&[1000, 4, 1004]);
    assert_eq!(transfer.next(), Next::Done);
}

#[test]
fn a_residue_that_no_worker_drains_is_read_again() {
    let mut transfer = Transfer::new(vec![range(0, 5000)], CHAIN);
    plan(&mut transfer);
    transfer.apply(&[5000, 2000]);
    plan(&mut transfer);
    transfer.apply(&[i32::from(libc::POLLOUT), ECANCELED]);
    assert!(transfer.is_refused());
    transfer.leave_chain(COPY);
    let fill = Op::Fill { piece: 0, position: 2000, len_bytes: 3000 };
    assert_eq!(plan(&mut transfer), [fill, Op::Drain { len_bytes: 3000, more: false }]);
}

/// There is no further path: a read that fails for want of memory fails the transfer, and does not
/// repeat for ever.
#[test]
fn only_a_chain_is_left_for_want_of_workers_or_memory() {
    for errno in [libc::ENOMEM, libc::EAGAIN, libc::ECANCELED] {
        let mut transfer = Transfer::new(vec![range(0, 5000)], CHAIN);
        plan(&mut transfer);
        transfer.apply(&[-errno, ECANCELED]);
        assert!(transfer.is_refused());
        transfer.leave_chain(COPY);
        plan(&mut transfer);
        transfer.apply(&[-errno, ECANCELED]);
        assert_eq!(transfer.next(), Next::Failed(TransferError::Os(errno)));
    }
}
