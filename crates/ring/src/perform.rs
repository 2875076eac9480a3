//! Performs transfers: joins the pure machine with a kernel.
//!
//! A plan runs either as one linked chain on the ring or step by step from the event loop. Both
//! report alike, so transfer.rs does not know which it was. While a chain is in flight the whole
//! [`Job`] lies in the slab, and nothing here can touch a pipe that the kernel works on. Called by
//! ring.rs.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::fadvise;
use rustix::io::Errno;

use crate::counters::{Counter, Counters};
use crate::error::TransferError;
use crate::operations::Resources;
use crate::ring_config::{COPY_MAX_BYTES, READ_AHEAD_BYTES, TURN_BYTES};
use crate::sent::{Account, Sent};
use crate::shared::{Kernel, Shared};
use crate::shortage;
use crate::socket::Socket;
use crate::stepwise::Steps;
use crate::sys::{Advice, Request, Requests};
use crate::transfer::cold_places::ColdPlace;
use crate::transfer::looks;
use crate::transfer::pipes::Lease;
use crate::transfer::route::{self, Way};
use crate::transfer::stage::{Parked, Stage};
use crate::transfer::streams::Approach;
use crate::transfer::{Means, Next, Op, Path, Pieces, Transfer};
use crate::uring::{OnDrop, Uring};

/// A first answer of more files is no scan that goes on after a connection was made anew: a gap in
/// one of them would have all of them wait.
const FEW_FILES: usize = 4;

/// Runs a transfer to its end. The caller runs one transfer at a time on a socket.
pub(crate) async fn transfer(
    ring: &Shared,
    pieces: Pieces,
    socket: &Rc<Socket>,
    path: Path,
) -> Result<Sent, TransferError> {
    let path = possible_path(ring, path);
    let unfinished = Unfinished(socket);
    let mut job = Job::new(ring, pieces, Rc::clone(socket), path);
    loop {
        job.route(ring);
        job.prepare(ring).await;
        match job.transfer.next() {
            Next::Done => {
                job.note_stream();
                job.note_passed(ring);
                job.drop_behind(ring);
                socket.uncork();
                std::mem::forget(unfinished);
                return Ok(job.account.sent);
            }
            Next::Failed(error) => {
                if matches!(error, TransferError::Read { is_begun: false, .. }) {
                    std::mem::forget(unfinished);
                }
                return Err(error);
            }
            Next::Do(_) => {}
        }
        match (&ring.kernel, job.transfer.means()) {
            (Kernel::Uring(uring), Means::Chain { .. }) => job = perform_linked(uring, job).await,
            _ => {
                let Job { transfer, socket, stage, account, .. } = &mut job;
                let sent = &mut account.sent;
                Steps { ring, transfer, socket, stage, sent }.perform().await;
            }
        }
        job.settle(ring);
    }
}

/// A transfer that has not ended well. An unknown prefix of the answer has been sent, so the
/// connection is of no more use. Shutting it down keeps other bytes from following. It also makes a
/// chain in flight complete (KERNEL.md row 13), which releases all that the chain owns.
struct Unfinished<'a>(&'a Socket);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::debug!(%error, "cannot shut down the socket of an unfinished transfer");
        }
    }
}

fn possible_path(ring: &Shared, path: Path) -> Path {
    match (&ring.kernel, path) {
        (Kernel::Epoll { .. }, Path::Chain) => {
            ring.counters.chains_by_sendfile.add(1);
            Path::Sendfile
        }
        _ => path,
    }
}

/// A transfer with all its means. The kernel owns it while a chain is in flight.
struct Job {
    transfer: Transfer,
    socket: Rc<Socket>,
    path: Path,
    pipe: Option<Lease>,
    /// The next bytes are not in the page cache, so their plan will wait for a disk.
    is_cold: bool,
    /// Some of the answer was not, and all that follows takes the same path.
    is_scan: bool,
    /// There was no worker or pipe for a chain, so the rest is copied. A copy waits for a disk on a
    /// thread that exists; sendfile would wait on the event loop.
    has_left_chain: bool,
    /// Held while the plan waits for the disk.
    cold_place: Option<ColdPlace>,
    stage: Stage,
    /// Held while a full stage waits for the peer.
    parked_stage: Option<Parked>,
    account: Account,
    counters: Arc<Counters>,
}

impl Job {
    fn new(ring: &Shared, pieces: Pieces, socket: Rc<Socket>, path: Path) -> Job {
        Job {
            transfer: Transfer::new(pieces, means_of(way_of(path), ring, &socket)),
            socket,
            path,
            pipe: None,
            is_cold: false,
            is_scan: false,
            has_left_chain: false,
            cold_place: None,
            stage: Stage::default(),
            parked_stage: None,
            account: Account::default(),
            counters: Arc::clone(&ring.counters),
        }
    }

    /// Chooses the path of the next plan where the caller left that to the ring, and where peers
    /// hold all the pages they may.
    fn route(&mut self, ring: &Shared) {
        let is_free = self.path != Path::Auto && (self.path == Path::Copy || ring.pins.is_none());
        let is_settled = is_free || self.has_left_chain;
        if is_settled || !self.transfer.is_at_a_turn() || self.transfer.rest_bytes() == 0 {
            return;
        }
        let wanted = match self.path {
            Path::Auto => self.choose(ring),
            path => way_of(path),
        };
        self.is_cold = self.path == Path::Auto && wanted == Way::Chain;
        let way = if self.may_send_pages(ring, wanted) { wanted } else { Way::Copy };
        self.is_cold &= way == Way::Chain;
        self.transfer.set_means(means_of(way, ring, &self.socket));
        match (&self.pipe, way) {
            (Some(pipe), Way::Chain) => self.transfer.set_pipe_slots(pipe.slots()),
            _ => self.release_pipe(),
        }
    }

    fn choose(&mut self, ring: &Shared) -> Way {
        let can_chain = matches!(ring.kernel, Kernel::Uring(_));
        if can_chain && !self.is_scan && self.goes_on_to_disk(ring) {
            self.is_scan = true;
        }
        let transfer = &self.transfer;
        let is_cached = || {
            let (mut ranges, now) = (transfer.next_ranges(TURN_BYTES), Instant::now());
            let goes_on = transfer.rest_bytes() > TURN_BYTES;
            ranges.all(|range| ring.residency.is_cached(&range, goes_on, now))
        };
        let is_cached = || !self.is_scan && is_cached();
        let (rest_bytes, spliced) = (transfer.rest_bytes(), ring.config.spliced);
        let way = route::choose(rest_bytes, can_chain, spliced, is_cached);
        self.is_scan |= way == Way::Chain;
        way
    }

    /// Whether the answer goes on where one from the disk ended, or may do so on a connection that
    /// has not read the file before; and what follows is not cached.
    fn goes_on_to_disk(&self, ring: &Shared) -> bool {
        let mut streams = self.socket.streams.borrow_mut();
        let mut ranges = self.transfer.next_ranges_from(u64::MAX);
        let Some((range, begin)) = ranges.next() else { return false };
        let is_new = self.transfer.rest_bytes() > COPY_MAX_BYTES
            && ranges.nth(FEW_FILES - 1).is_none()
            && streams.has_room_for(&range.file);
        if !is_new && streams.approach(&range.file, begin) != Approach::GoesOn {
            return false;
        }
        let is_cached = ring.residency.is_cached_ahead(&range);
        if is_new && is_cached {
            streams.begin_in_memory(&range.file, begin);
        }
        !is_cached
    }

    /// Remembers where an answer from the disk ended.
    fn note_stream(&self) {
        let mut streams = self.socket.streams.borrow_mut();
        if self.is_scan {
            streams.go_on_behind(self.transfer.ranges());
        } else {
            streams.end(self.transfer.ranges());
        }
    }

    /// Whether the peer may get pages of files, which it holds until it reads.
    fn may_send_pages(&self, ring: &Shared, way: Way) -> bool {
        let (Some(pins), true) = (&ring.pins, way != Way::Copy) else { return true };
        let turn_bytes = if way == Way::Chain { READ_AHEAD_BYTES } else { TURN_BYTES };
        let may = self.socket.pin(pins, self.transfer.next_ranges(turn_bytes));
        if !may {
            self.counters.copies_for_memory.add(1);
        }
        may
    }

    /// Gets what the next plan needs: a place among the chains that wait for a disk, a pipe, a
    /// buffer.
    async fn prepare(&mut self, ring: &Shared) {
        // A transfer whose last byte has gone waits for nothing more.
        let goes_on = self.transfer.rest_bytes() > 0;
        if self.is_cold && goes_on && self.transfer.is_at_a_turn() {
            self.account.begin_cold();
            if ring.cold_places.is_full(Instant::now()) {
                // Who has a place may wait for a pipe, so who waits for a place must not hold one.
                self.release_pipe();
            }
            self.cold_place = Some(ring.admit_cold().await);
            self.look_ahead(ring);
            self.read_ahead(ring);
        }
        if self.pipe.is_none() && self.transfer.wants_pipe() {
            match ring.pipes.lease().await {
                Ok(lease) => {
                    self.transfer.set_pipe_slots(lease.slots());
                    self.pipe = Some(lease);
                }
                Err(error) => self.leave_chain(ring, &error),
            }
        }
        let only_waits = self.transfer.is_blocked() && self.transfer.staged_bytes() == 0;
        if matches!(self.transfer.means(), Means::Copy { .. }) && !only_waits {
            self.stage.prepare(&ring.spare_stage, self.transfer.rest_bytes());
        }
    }

    /// For who reads here and there: has the disk read all that the next plans will fill from, at
    /// once instead of hop by hop. For others that would take the place of the kernel's own
    /// read-ahead, which grows, and brings larger folios. A scan has it grow twice as far.
    fn read_ahead(&self, ring: &Shared) {
        let Kernel::Uring(uring) = &ring.kernel else { return };
        let streams = self.socket.streams.borrow();
        for (range, begin) in self.transfer.next_ranges_from(READ_AHEAD_BYTES) {
            match streams.approach(&range.file, begin) {
                Approach::Begins => {}
                Approach::GoesOn => {
                    // Without it the scan is slower, and no worse.
                    let _ = fadvise(&*range.file, 0, None, rustix::fs::Advice::Sequential);
                }
                Approach::Jumps => uring.advise(&range, Advice::WillNeed),
            }
        }
    }

    /// Notes what the disk will read, and what of it for a scan, before it reads ahead.
    fn look_ahead(&mut self, ring: &Shared) {
        let (streams, mut looks) = (self.socket.streams.borrow(), self.socket.looks.borrow_mut());
        let is_wide = self.transfer.ranges().nth(looks::FILES_MAX).is_some();
        let sight = ring.config.sight;
        for (range, begin) in self.transfer.next_ranges_from(READ_AHEAD_BYTES) {
            let approach = streams.approach(&range.file, begin);
            let foreseen = looks.ahead_of(&range, begin, approach, sight, is_wide);
            self.account.note_cold(foreseen.cold_bytes);
            if foreseen.brought.is_empty() || !sight.tells_cold() {
                continue;
            }
            if let Some(scans) = &ring.config.scans {
                let reader = self.socket.scan_reader(scans);
                scans.bring(reader, &range, foreseen.brought, Instant::now());
            }
        }
    }

    /// Counts what the disk was read for ahead of this answer, beside what its plans have counted.
    /// Notes an answer from memory.
    fn note_passed(&mut self, ring: &Shared) {
        let mut looks = self.socket.looks.borrow_mut();
        if !looks.is_empty() {
            self.account.note_cold(self.transfer.ranges().map(|range| looks.pass(&range)).sum());
        }
        let sent = self.account.end();
        if !self.is_scan && sent.cold_bytes == 0 && sent.file_bytes() > 0 {
            ring.cold_places.note_hot();
        }
    }

    /// Drops from the page cache what scans have brought and no reader needs any more.
    fn drop_behind(&self, ring: &Shared) {
        let Some(scans) = ring.config.scans.as_ref().filter(|scans| !scans.is_empty()) else {
            return;
        };
        let reader = self.socket.scan_reader(scans);
        for range in scans.pass(reader, self.transfer.ranges(), Instant::now()) {
            ring.drop_pages(&range);
        }
    }

    /// Counts the results of the plan, and releases what others may need: the stage if it is empty,
    /// the pipe if the peer does not read.
    fn settle(&mut self, ring: &Shared) {
        self.count();
        self.settle_stage(ring);
        if self.transfer.is_blocked() {
            self.account.note_full();
        }
        if self.cold_place.take().is_some() {
            ring.workers.give_way(Instant::now());
        }
        if self.transfer.is_refused() {
            return self.leave_chain(ring, &Errno::CANCELED.into());
        }
        let Some(pipe) = &mut self.pipe else { return };
        if !self.transfer.is_blocked() {
            pipe.unpark();
        } else if !pipe.park() {
            self.counters.surrenders.add(1);
            self.release_pipe();
            self.transfer.forget_staged();
        }
    }

    /// Copies the rest, for which there is no worker or no pipe.
    fn leave_chain(&mut self, ring: &Shared, error: &io::Error) {
        self.counters.refused.add(1);
        shortage::report(error, "a kernel worker or a pipe for an answer");
        self.release_pipe();
        (self.has_left_chain, self.is_cold) = (true, false);
        self.transfer.leave_chain(means_of(Way::Copy, ring, &self.socket));
    }

    /// Bounds the memory of many peers that do not read: a limited number of full stages waits for
    /// them.
    fn settle_stage(&mut self, ring: &Shared) {
        if self.stage.bytes().is_empty() {
            self.parked_stage = None;
        } else if self.parked_stage.is_none() && self.transfer.is_blocked() {
            self.parked_stage = Parked::take(&ring.parked_stages);
            if self.parked_stage.is_none() {
                self.stage.forget();
                self.transfer.forget_staged();
            }
        }
        self.stage.release(&ring.spare_stage);
    }

    fn count(&mut self) {
        let tally = self.transfer.take_tally();
        self.socket.note_sent(tally.file_bytes + tally.header_bytes);
        let (counters, sent) = (&self.counters, &mut self.account.sent);
        let means = self.transfer.means();
        let (bytes, sent_bytes): (&Counter, &mut u64) = match means {
            Means::Chain { .. } => (&counters.chain_bytes, &mut sent.chain_bytes),
            Means::Sendfile => (&counters.sendfile_bytes, &mut sent.sendfile_bytes),
            Means::Copy { .. } => (&counters.copy_bytes, &mut sent.copy_bytes),
        };
        bytes.add(tally.file_bytes);
        *sent_bytes += tally.file_bytes;
        self.account.end_cold();
        counters.header_bytes.add(tally.header_bytes);
        counters.poll_outs.add(tally.poll_outs);
        if matches!(means, Means::Chain { .. }) {
            counters.hops.add(tally.hops);
            counters.short_hops.add(tally.short_hops);
        }
    }

    fn release_pipe(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        if self.transfer.staged_bytes() == 0 {
            pipe.give_back();
        } else {
            self.counters.residues.add(1);
        }
    }
}

/// The way of a fixed path. For `Auto` it is a placeholder: the way is chosen before the first
/// plan.
fn way_of(path: Path) -> Way {
    match path {
        Path::Chain => Way::Chain,
        Path::Sendfile => Way::Sendfile,
        Path::Copy | Path::Auto => Way::Copy,
    }
}

fn means_of(way: Way, ring: &Shared, socket: &Socket) -> Means {
    match way {
        Way::Chain => Means::Chain { hop_bytes: ring.config.hop_bytes, pipe_slots: 1 },
        Way::Sendfile => Means::Sendfile,
        Way::Copy => Means::Copy { stage_bytes: socket.stage_bytes() },
    }
}

impl Resources for Job {
    /// Counts the results of a chain whose future was dropped while it was in flight.
    fn abandoned(mut self: Box<Self>, results: &[i32]) {
        self.transfer.apply(results);
        self.count();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.release_pipe();
    }
}

/// Performs the plan as one chain on the ring, which owns the job meanwhile.
async fn perform_linked(uring: &Rc<Uring>, job: Job) -> Job {
    job.counters.chains.add(1);
    let (mut job, results) = uring.start(Box::new(job), OnDrop::LetFinish, requests).await;
    job.transfer.apply(&results);
    *job
}

fn requests(job: &mut Job) -> Requests<'_> {
    let Job { transfer, socket, pipe, .. } = &*job;
    let socket = Socket::as_fd(socket);
    let pipe = || pipe.as_ref().expect("a plan that moves files was given a pipe");
    let request = |&op: &Op| match op {
        Op::PollOut => Request::Poll { fd: socket, events: libc::POLLOUT },
        Op::Send { piece, from, len_bytes, more } => {
            Request::Send { socket, bytes: transfer.bytes(piece, from, len_bytes), more }
        }
        Op::Fill { piece, position, len_bytes } => Request::Fill {
            file: transfer.file(piece).as_fd(),
            position,
            pipe: pipe().write_end(),
            len_bytes,
        },
        Op::Drain { len_bytes, more } => {
            Request::Drain { pipe: pipe().read_end(), socket, len_bytes, more }
        }
        Op::Gather { .. } | Op::SendFile { .. } => unreachable!("no part of a chain: {op:?}"),
    };
    transfer.plan().iter().map(request).collect()
}
