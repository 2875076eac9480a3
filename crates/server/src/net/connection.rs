//! A connection: frames in, answers out, one request at a time and in order.
//!
//! Called by worker, once for each accepted socket. Knows frames and phases; what a request means
//! is in [`crate::api`]. Never waits for a disk, never buffers more than has been received.
//!
//! ```text
//!   received ──frame::length──► frame ──decode──► Request ──api::answer──► pieces ──transfer──► socket
//! ```

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use penstock_ring::{Backend, Path, PeerWatch, Piece, Sent, Socket, TransferError};
use penstock_storage::Extent;
use penstock_wire::Few;
use penstock_wire::frame::{self, FrameError, PREFIX_LEN};

use crate::api;
use crate::api::reply::{NoReply, Range, Reply};
use crate::broker::cold_budgets::Charge;
use crate::broker::read_errors::{self, Place, What};
use crate::broker::uploads::Share;
use crate::clock;
use crate::config::limits::{
    ANSWER_UNCOUNTED_BYTES, RECEIVE_KEPT_BYTES, RECEIVE_MIN_BYTES, RECEIVE_STEP_BYTES,
};
use crate::net::sweep::{Phase, Vitals};
use crate::net::worker::Worker;
use crate::stop::{Stop, wait_for};

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    PeerClosed,
    #[error("the peer closed it in the middle of a request of {expected} bytes, {received} here")]
    Torn { received: usize, expected: u32 },
    #[error("not a request: {0}")]
    Frame(#[from] FrameError),
    #[error(transparent)]
    NoReply(#[from] NoReply),
    #[error("queued.max.request.bytes is used up")]
    Overloaded,
    #[error("answers that peers have not read take all the memory they may")]
    Unread,
    #[error("receiving: {0}")]
    Receive(std::io::Error),
    #[error("the server stops")]
    Stopping,
    #[error("sending: {0}")]
    Send(#[from] TransferError),
}

/// Serves one connection until it ends; logs why, once.
pub(crate) async fn serve(worker: &Rc<Worker>, vitals: &Rc<Vitals>, peer: SocketAddr) {
    let mut connection = Connection {
        worker: Rc::clone(worker),
        vitals: Rc::clone(vitals),
        socket: vitals.socket(),
        peer: PeerWatch::default(),
        received: BytesMut::new(),
        usual_bytes: RECEIVE_MIN_BYTES,
        encoded: BytesMut::new(),
    };
    let end = connection.run().await;
    drop(connection);
    vitals.shut_down();
    log(worker, peer, &end);
    until_taken(worker, vitals).await;
}

fn log(worker: &Worker, peer: SocketAddr, end: &End) {
    match end {
        End::Frame(_)
        | End::NoReply(NoReply::Request(_) | NoReply::Overloaded(_))
        | End::Overloaded
        | End::Unread => {
            if let Some(held_back) = worker.stranger_lines.take(Instant::now()) {
                tracing::warn!(%peer, held_back, "closed a connection: {end}");
            }
        }
        _ => tracing::debug!(%peer, "a connection ended: {end}"),
    }
}

/// Waits until the peer has taken what was sent: the kernel keeps those bytes after a socket is
/// closed, too. Until then the connection keeps its place and its shares, and the sweep ends it
/// like any other that takes nothing.
async fn until_taken(worker: &Worker, vitals: &Vitals) {
    const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
    vitals.enter(Phase::Sending);
    let taken = async {
        while vitals.holds_unsent() {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    let mut stop = worker.stop.clone();
    tokio::select! {
        biased;
        () = taken => {}
        // The kernel goes on sending without the server.
        () = wait_for(&mut stop, Stop::Drain) => {}
    }
}

struct Connection {
    worker: Rc<Worker>,
    vitals: Rc<Vitals>,
    socket: Rc<Socket>,
    peer: PeerWatch,
    /// Bytes received and not yet part of a frame.
    received: BytesMut,
    /// Room for a frame like the last one.
    usual_bytes: usize,
    /// Memory for the next answer, empty.
    encoded: BytesMut,
}

/// A whole frame without its prefix, and its share of the budget of requests in flight.
struct Frame {
    bytes: Bytes,
    budget: Option<Share>,
}

impl Connection {
    async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.serve_one().await {
                return end;
            }
        }
    }

    async fn serve_one(&mut self) -> Result<(), End> {
        let Frame { bytes, budget } = self.next_frame().await?;
        self.socket.note_request();
        let again = (bytes.len() <= RECEIVE_KEPT_BYTES).then(|| bytes.clone());
        let answered = self.answer(bytes, budget).await;
        match (answered, again) {
            // Known before the first byte, and from now on: the next answer does not promise it.
            (Err(End::Send(TransferError::Read { is_begun: false, .. })), Some(bytes)) => {
                self.answer(bytes, None).await?;
            }
            (answered, _) => answered?,
        }
        self.vitals.enter(Phase::Idle);
        if !self.received.is_empty() {
            // The next request is here already: other connections first.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn answer(&mut self, frame: Bytes, budget: Option<Share>) -> Result<(), End> {
        self.vitals.enter(Phase::Working);
        let context = self.worker.context(&self.socket, &self.peer);
        let reply = api::answer(&context, frame, Instant::now(), &mut self.encoded).await?;
        if budget.is_some() {
            self.vitals.note_grant(0);
            drop(budget);
        }
        match reply {
            Some(reply) => self.send(reply).await,
            None => Ok(()),
        }
    }

    /// The next whole frame. The buffer grows by what arrives, never by what a prefix claims. Once
    /// a stop has begun only frames that are already here count: a peer that asks and asks again
    /// would hold it up for ever.
    async fn next_frame(&mut self) -> Result<Frame, End> {
        let limit = self.worker.broker.settings.frame_max_bytes;
        let is_stopping = *self.worker.stop.borrow() >= Stop::Drain;
        let mut budget: Option<Share> = None;
        let mut is_more_here = false;
        loop {
            let length = frame::length(&self.received, limit)?;
            match length {
                Some(length) if self.received.len() >= PREFIX_LEN + length as usize => {
                    let bytes = self.take_frame(length as usize);
                    return Ok(Frame { bytes, budget });
                }
                _ if is_stopping => return Err(End::Stopping),
                _ => {}
            }
            let phase = if self.received.is_empty() { Phase::Idle } else { Phase::Receiving };
            if self.vitals.phase() != phase {
                self.vitals.enter(phase);
            }
            self.make_room(length, &mut budget).await?;
            self.receive(length, &mut is_more_here).await?;
        }
    }

    fn take_frame(&mut self, length: usize) -> Bytes {
        self.received.advance(PREFIX_LEN);
        let frame = self.received.split_to(length).freeze();
        let frame_bytes = PREFIX_LEN + length;
        let is_kept = frame_bytes <= RECEIVE_KEPT_BYTES;
        self.usual_bytes =
            if is_kept { frame_bytes.max(RECEIVE_MIN_BYTES) } else { RECEIVE_MIN_BYTES };
        if self.received.is_empty() && !is_kept {
            // Let go of the frame's memory: an idle connection holds no large buffer. A small one
            // is used again, once the frame has been answered.
            self.received = BytesMut::new();
        }
        frame
    }

    /// Makes room for the next receive: as much again as is here, within what the frame still
    /// lacks.
    async fn make_room(
        &mut self,
        length: Option<u32>,
        budget: &mut Option<Share>,
    ) -> Result<(), End> {
        let here = self.received.len();
        let lacking = length.map_or(self.usual_bytes, |n| PREFIX_LEN + n as usize - here);
        let room = lacking.min(here.max(RECEIVE_STEP_BYTES));
        let free = self.worker.broker.settings.receive_free_bytes;
        // Before the length is known there is room for a frame that is free, and no share would be
        // enough.
        if let (None, Some(length)) = (&budget, length)
            && here + room > free
        {
            *budget = Some(self.ask_budget(PREFIX_LEN as u32 + length).await?);
        }
        // No more than that: what is received beyond the frame would not have been granted, and
        // would keep all of its memory.
        if !self.received.try_reclaim(room) {
            let mut grown = BytesMut::with_capacity(here + room);
            grown.extend_from_slice(&self.received);
            self.received = grown;
        }
        Ok(())
    }

    /// Asks for a share of the memory for requests in flight, for the whole frame. Waiting has an
    /// end.
    async fn ask_budget(&self, bytes: u32) -> Result<Share, End> {
        let broker = &self.worker.broker;
        let share = broker.memory.uploads.share(bytes, broker.settings.frame_timeout).await;
        self.vitals.note_grant(u64::from(bytes));
        share.ok_or(End::Overloaded)
    }

    /// One receive. What fills its room has more behind it, as a rule: that is tried for once
    /// without waiting, which spares a request that outgrows the buffer a detour by the ring.
    async fn receive(&mut self, length: Option<u32>, is_more_here: &mut bool) -> Result<(), End> {
        let ring = &self.worker.ring;
        let at_once = match std::mem::take(is_more_here) {
            true => ring.recv_now(&self.socket, &mut self.received).transpose(),
            false => None,
        };
        let outcome = match at_once {
            Some(outcome) => outcome,
            None => {
                let room = self.received.capacity() - self.received.len();
                let buffer = std::mem::take(&mut self.received);
                let outcome;
                (outcome, self.received) = ring.recv(&self.socket, buffer).await;
                *is_more_here = matches!(outcome, Ok(len_bytes) if len_bytes == room);
                outcome
            }
        };
        match outcome {
            Ok(0) if self.received.is_empty() => Err(End::PeerClosed),
            Ok(0) => Err(End::Torn {
                received: self.received.len(),
                expected: length.unwrap_or(PREFIX_LEN as u32),
            }),
            Ok(len_bytes) => {
                self.vitals.note_received(len_bytes as u64);
                Ok(())
            }
            Err(error) => Err(End::Receive(error)),
        }
    }

    /// Asks for a share of the memory for what of an answer lies in ours until the peer has taken
    /// it. It is in memory while it waits as well, so that has a bound, too.
    async fn hold(&self, reply: &Reply) -> Result<Option<Share>, End> {
        let of_files: u64 = reply.ranges.iter().map(|range| range.extent.len_bytes).sum();
        let broker = &self.worker.broker;
        let answers = &broker.memory.answers;
        let bytes = (reply.answer.len_bytes - of_files).min(answers.all_bytes());
        let is_free = bytes <= ANSWER_UNCOUNTED_BYTES;
        self.vitals.note_answer(if is_free { 0 } else { bytes });
        if is_free {
            return Ok(None);
        }
        if answers.waiting_bytes() > answers.all_bytes() {
            return Err(End::Unread);
        }
        let share = answers.share(bytes as u32, broker.settings.frame_timeout).await;
        share.map(Some).ok_or(End::Unread)
    }

    async fn send(&mut self, reply: Reply) -> Result<(), End> {
        let _share = self.hold(&reply).await?;
        self.vitals.enter(Phase::Sending);
        self.vitals.widen(reply.answer.len_bytes);
        let path = self.worker.broker.settings.fetch_path.path();
        let Reply { answer, mut ranges, client_id, since } = reply;
        let pieces = answer.pieces.into_iter().map(|piece| piece_of(piece, &ranges));
        let sent = self.worker.ring.transfer(pieces, &self.socket, path).await;
        match sent {
            Ok(sent) => {
                if sent.file_bytes() > 0 {
                    let (now, broker) = (Instant::now(), &self.worker.broker);
                    broker.last_minutes.note(now, sent.cold_bytes, now - since);
                }
                self.settle(&mut ranges, &client_id, &sent, since);
                let parts = ranges.iter().map(Range::part);
                self.worker.broker.readers.note(&client_id, parts, &sent, clock::coarse_now());
                Ok(())
            }
            Err(error) => {
                self.settle_unsent(&mut ranges, &client_id);
                self.note_unreadable(&ranges, &error);
                Err(End::Send(error))
            }
        }
    }

    /// Charges the budgets for what the disk was read for, and notes a hot answer's time until its
    /// last byte, or until the peer was waited for.
    fn settle(&self, ranges: &mut [Range], client_id: &str, sent: &Sent, since: Instant) {
        let Some(budgets) = &self.worker.broker.cold_budgets else { return };
        // Other paths do not look at the page cache.
        let is_counted = self.worker.broker.settings.fetch_path.path() == Path::Auto
            && self.worker.ring.backend() == Backend::Uring;
        let mut charges = take_charges(ranges);
        let is_hot = charges.is_empty() && sent.cold_bytes == 0 && sent.file_bytes() > 0;
        budgets.settle(client_id, &mut charges, is_counted.then_some(sent.cold_bytes));
        if let (Some(control), true) = (&budgets.control, is_hot) {
            let until = sent.full_at.unwrap_or_else(Instant::now);
            control.note_hot(until.saturating_duration_since(since));
        }
    }

    /// Of an answer that was not sent whole, it is not known what the disk was read for.
    fn settle_unsent(&self, ranges: &mut [Range], client_id: &str) {
        if let Some(budgets) = &self.worker.broker.cold_budgets {
            budgets.settle(client_id, &mut take_charges(ranges), None);
        }
    }

    /// A range that was promised and cannot be read. If bytes of the answer are out, the peer gets
    /// no more of it than the end of its connection.
    fn note_unreadable(&self, ranges: &[Range], error: &TransferError) {
        let (range, position, len_bytes) = match *error {
            TransferError::Read { range, position, len_bytes, .. } => {
                (range, position, len_bytes.into())
            }
            TransferError::FileEndedEarly { range, position, missing_bytes } => {
                (range, position, missing_bytes)
            }
            _ => return,
        };
        if let Some(Range { partition, extent, .. }) = ranges.get(range) {
            let place = Place { file: Arc::clone(&extent.file), position, len_bytes };
            read_errors::report(
                &self.worker.broker,
                &self.worker.lines.fetch,
                What::Records,
                &partition.name,
                place,
                error,
            );
        }
    }
}

fn take_charges(ranges: &mut [Range]) -> Few<Charge> {
    ranges.iter_mut().filter_map(|range| range.charge.take()).collect()
}

/// Puts the file ranges where the answer's layout has their slots.
fn piece_of(piece: penstock_wire::Piece, ranges: &[Range]) -> Piece {
    match piece {
        penstock_wire::Piece::Bytes(bytes) => Piece::Bytes(bytes),
        penstock_wire::Piece::Records(slot) => {
            let Extent { file, position, len_bytes, .. } = &ranges[slot.id as usize].extent;
            Piece::File { file: Arc::clone(file), position: position.0, len_bytes: *len_bytes }
        }
    }
}
