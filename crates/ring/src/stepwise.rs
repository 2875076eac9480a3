//! Performs a plan step by step from the event loop, by sendfile and by copies.
//!
//! Waits for nothing but a socket's room, and for a disk that a copy must read. Called by
//! perform.rs for every plan that is no chain.

use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::ring_config::CHAIN_OPERATIONS;
use crate::sent::Sent;
use crate::shared::Shared;
use crate::socket::Socket;
use crate::transfer::stage::Stage;
use crate::transfer::{Op, Transfer};

/// A plan, and what performing it takes.
pub(crate) struct Steps<'a> {
    pub(crate) ring: &'a Shared,
    pub(crate) transfer: &'a mut Transfer,
    pub(crate) socket: &'a Rc<Socket>,
    pub(crate) stage: &'a mut Stage,
    pub(crate) sent: &'a mut Sent,
}

impl Steps<'_> {
    /// Performs the plan in one turn of the event loop, and reports like a chain.
    pub(crate) async fn perform(mut self) {
        let mut results = [-libc::ECANCELED; CHAIN_OPERATIONS];
        let results = &mut results[..self.transfer.plan().len()];
        for (index, result) in results.iter_mut().enumerate() {
            let op = self.transfer.plan()[index];
            *result = self.perform_step(op).await;
            if is_broken(op, *result) {
                break;
            }
        }
        self.transfer.apply(results);
        // The turn is over. A transfer that is done returns without yielding.
        if !self.transfer.is_blocked() && self.transfer.rest_bytes() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Performs one operation. Waits only for PollOut, and for a disk that a copy must read.
    async fn perform_step(&mut self, op: Op) -> i32 {
        let Steps { ring, transfer, socket, stage, sent } = self;
        match op {
            Op::PollOut => match ring.writable(socket).await {
                Ok(()) => 0,
                Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
            },
            Op::Send { piece, from, len_bytes, more } => {
                send(socket, transfer.bytes(piece, from, len_bytes), more)
            }
            Op::SendFile { piece, position, len_bytes, more } => {
                if more {
                    socket.cork();
                }
                let file = transfer.file(piece);
                result_of(rustix::fs::sendfile(
                    socket,
                    file,
                    Some(&mut { position }),
                    len_bytes as usize,
                ))
            }
            Op::Gather { piece, from, len_bytes } => {
                stage.room(len_bytes).copy_from_slice(transfer.bytes(piece, from, len_bytes));
                stage.commit(len_bytes as usize);
                len_bytes as i32
            }
            Op::Fill { piece, position, len_bytes } => {
                fill_stage(ring, stage, transfer.file(piece), position, len_bytes, sent).await
            }
            Op::Drain { more, .. } => {
                let taken = send(socket, stage.bytes(), more);
                stage.consume(taken.max(0) as usize);
                taken
            }
        }
    }
}

/// Reads from the page cache at once, else by a read that waits on a kernel worker. What the stage
/// holds already is not read.
async fn fill_stage(
    ring: &Shared,
    stage: &mut Stage,
    file: &Arc<File>,
    position: u64,
    len_bytes: u32,
    sent: &mut Sent,
) -> i32 {
    if stage.holds(file, position, len_bytes) {
        stage.commit(len_bytes as usize);
        return len_bytes as i32;
    }
    let read = match ring.read_cached_at(file, position, stage.room(len_bytes)) {
        Ok(Some(len_bytes)) => Ok(len_bytes),
        Ok(None) => {
            let since = Instant::now();
            let read = ring.read_at(Arc::clone(file), position, len_bytes as usize).await;
            sent.disk_wait += since.elapsed();
            read.map(|bytes| {
                sent.cold_bytes += bytes.len() as u64;
                stage.room(bytes.len() as u32).copy_from_slice(&bytes);
                bytes.len()
            })
        }
        Err(error) => Err(error),
    };
    match read {
        Ok(len_bytes) => {
            stage.commit(len_bytes);
            stage.note_read(file, position, len_bytes);
            len_bytes as i32
        }
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}

fn send(socket: &Socket, bytes: &[u8], more: bool) -> i32 {
    let more = if more { SendFlags::MORE } else { SendFlags::empty() };
    result_of(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT | more))
}

/// A result in the form of a completion's.
fn result_of(result: Result<usize, Errno>) -> i32 {
    match result {
        Ok(len_bytes) => len_bytes as i32,
        Err(errno) => -errno.raw_os_error(),
    }
}

fn is_broken(op: Op, result: i32) -> bool {
    match op {
        Op::PollOut => result < 0,
        Op::Send { len_bytes, .. }
        | Op::Gather { len_bytes, .. }
        | Op::Fill { len_bytes, .. }
        | Op::Drain { len_bytes, .. }
        | Op::SendFile { len_bytes, .. } => i64::from(result) < i64::from(len_bytes),
    }
}
