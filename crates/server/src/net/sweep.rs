//! The connections of one worker, and the sweep that ends those that take too long.
//!
//! A connection notes its phase. Once a second the sweep compares the time in that phase with the
//! phase's limit, and shuts the socket down past it. Only a shutdown ends a connection from
//! outside: any operation in the kernel ends by it (KERNEL.md, row 13), and the connection's task
//! then finds the end. So the path of a request sets no timer, and one place knows all time-outs.
//!
//! Where memory or places are short, the sweep also has the slowest give way
//! ([`crate::broker::give_way`]).
//!
//! ```text
//!   Idle ──first byte──► Receiving ──frame complete──► Working ──answer laid out──► Sending ──► Idle
//!   connections.max.idle.ms  frame.timeout.ms          (its own max_wait)       send.timeout.ms
//! ```

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_ring::Socket;

use crate::broker::give_way::{Candidate, Shortage, slowest};
use crate::broker::send_memory::{SMALL_BYTES, SendMemory};
use crate::broker::uploads::PROGRESS_BYTES;
use crate::clock;
use crate::config::settings::Settings;

/// How long a connection that sends nothing keeps a large send buffer for its next answer.
const LARGE_BUFFER_KEPT: Duration = Duration::from_secs(1);

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Between requests.
    Idle,
    /// Some bytes of a frame are here.
    Receiving,
    /// The request is being answered; it may wait for data.
    Working,
    /// The answer goes out.
    Sending,
}

/// What the sweep knows of a connection.
#[derive(Debug)]
pub(crate) struct Vitals {
    socket: Rc<Socket>,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    taken_bytes: Cell<u64>,
    /// The sweep has ended it; its task has not found out yet.
    is_cut: Cell<bool>,
    upload: Upload,
    /// The send buffer, as the kernel counts it, and the share it comes from.
    buffer_bytes: Cell<u64>,
    send_memory: Option<Arc<SendMemory>>,
    /// The share of memory for the answer that is being sent.
    answer_bytes: Cell<u64>,
}

/// A frame for which a share of the memory for requests has been granted.
#[derive(Debug)]
struct Upload {
    /// 0: no share.
    granted_bytes: Cell<u64>,
    progress_at: Cell<Instant>,
    /// Bytes received since.
    received_bytes: Cell<u64>,
}

/// How long each phase may last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PhaseLimits {
    idle: Duration,
    receiving: Duration,
    sending: Duration,
}

/// The connections of one worker. Not shared between threads.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    all: RefCell<Vec<Rc<Vitals>>>,
}

impl PhaseLimits {
    pub(crate) fn of(settings: &Settings) -> Self {
        PhaseLimits {
            idle: settings.connection_idle_max,
            receiving: settings.frame_timeout,
            sending: settings.send_timeout,
        }
    }

    /// Whether a connection has been in `phase` for too long.
    fn overstayed(&self, phase: Phase, lasted: Duration) -> bool {
        match phase {
            Phase::Idle => lasted > self.idle,
            Phase::Receiving => lasted > self.receiving,
            Phase::Working => false,
            Phase::Sending => lasted > self.sending,
        }
    }
}

impl Vitals {
    pub(crate) fn new(socket: Rc<Socket>, send_memory: Option<Arc<SendMemory>>) -> Rc<Self> {
        let upload = Upload {
            granted_bytes: Cell::new(0),
            progress_at: Cell::new(clock::coarse_now()),
            received_bytes: Cell::new(0),
        };
        Rc::new(Vitals {
            socket,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(clock::coarse_now()),
            taken_bytes: Cell::new(0),
            is_cut: Cell::new(false),
            upload,
            buffer_bytes: Cell::new(SMALL_BYTES),
            send_memory,
            answer_bytes: Cell::new(0),
        })
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(clock::coarse_now());
    }

    pub(crate) fn socket(&self) -> Rc<Socket> {
        Rc::clone(&self.socket)
    }

    /// Ends the connection, whatever it is doing.
    pub(crate) fn shut_down(&self) {
        self.shut_down_direction(Shutdown::Both);
    }

    fn shut_down_direction(&self, direction: Shutdown) {
        if let Err(error) = self.socket.shutdown_direction(direction) {
            tracing::debug!(%error, "cannot shut a connection down");
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Notes a share of so many bytes for a frame; 0: given back.
    pub(crate) fn note_grant(&self, granted_bytes: u64) {
        self.upload.granted_bytes.set(granted_bytes);
        self.upload.progress_at.set(clock::coarse_now());
    }

    /// Notes a share of so many bytes for an answer; 0: none.
    pub(crate) fn note_answer(&self, granted_bytes: u64) {
        self.answer_bytes.set(granted_bytes);
    }

    /// Notes bytes of a frame.
    pub(crate) fn note_received(&self, len_bytes: u64) {
        if self.upload.granted_bytes.get() == 0 {
            return;
        }
        let received_bytes = self.upload.received_bytes.get() + len_bytes;
        self.upload.received_bytes.set(received_bytes % PROGRESS_BYTES);
        if received_bytes >= PROGRESS_BYTES {
            self.upload.progress_at.set(clock::coarse_now());
        }
    }

    /// Whether the peer, still there, has not taken all that was sent on a socket that has been
    /// shut down.
    pub(crate) fn holds_unsent(&self) -> bool {
        !self.is_cut.get() && self.socket.is_owed()
    }

    /// Makes the send buffer fit an answer, as far as there is memory.
    pub(crate) fn widen(&self, answer_bytes: u64) {
        let Some(send_memory) = &self.send_memory else { return };
        let has_bytes = self.buffer_bytes.get();
        let bytes = send_memory.widen(has_bytes, answer_bytes, self.socket.is_proven());
        if bytes != has_bytes {
            self.set_buffer(bytes);
        }
    }

    /// Gives a large send buffer back once it is empty.
    fn narrow(&self) {
        let Some(send_memory) = &self.send_memory else { return };
        let has_bytes = self.buffer_bytes.get();
        if has_bytes > SMALL_BYTES && self.socket.waiting_bytes() == 0 {
            self.set_buffer(SMALL_BYTES);
            send_memory.narrow(has_bytes);
        }
    }

    fn set_buffer(&self, bytes: u64) {
        self.buffer_bytes.set(bytes);
        if let Err(error) = self.socket.set_send_buffer(bytes as usize / 2) {
            tracing::debug!(%error, "cannot set a send buffer");
        }
    }

    /// Ends the connection and drops what its peer has not taken. That resets it; where nothing is
    /// unsent, an idle connection for one, the peer gets a plain end.
    fn cut(&self) {
        self.is_cut.set(true);
        if self.socket.is_owed()
            && let Err(error) = self.socket.forget_unsent()
        {
            tracing::debug!(%error, "cannot make a socket forget what is unsent");
        }
        self.shut_down();
    }

    /// What would come free by ending it, and how long it has made no progress.
    fn candidate(&self, shortage: Shortage, now: Instant) -> Candidate {
        let (since, holds) = match (shortage, self.phase()) {
            (Shortage::Upload, Phase::Receiving) => {
                (self.upload.progress_at.get(), self.upload.granted_bytes.get())
            }
            (Shortage::Place, Phase::Sending) => (self.since.get(), 1),
            (Shortage::Answer, Phase::Sending) => (self.since.get(), self.answer_bytes.get()),
            (Shortage::SendBuffer, Phase::Sending) => {
                (self.since.get(), self.buffer_bytes.get() - SMALL_BYTES)
            }
            _ => (now, 0),
        };
        Candidate { idle: now.saturating_duration_since(since), holds }
    }

    /// A peer that takes any part of its answer starts its time again.
    fn note_progress(&self, now: Instant) {
        let taken_bytes = self.socket.taken_bytes();
        if self.taken_bytes.replace(taken_bytes) != taken_bytes {
            self.since.set(now);
        }
    }
}

impl Drop for Vitals {
    fn drop(&mut self) {
        if let Some(send_memory) = &self.send_memory {
            send_memory.narrow(self.buffer_bytes.get());
        }
    }
}

impl Connections {
    pub(crate) fn add(&self, vitals: Rc<Vitals>) {
        self.all.borrow_mut().push(vitals);
    }

    pub(crate) fn remove(&self, vitals: &Rc<Vitals>) {
        let mut all = self.all.borrow_mut();
        if let Some(at) = all.iter().position(|other| Rc::ptr_eq(other, vitals)) {
            all.swap_remove(at);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.borrow().is_empty()
    }

    /// Shuts down every connection that has been in its phase for too long. Returns how many.
    pub(crate) fn sweep(&self, limits: PhaseLimits, now: Instant) -> usize {
        let all = self.all.borrow();
        let mut ended = 0;
        for vitals in all.iter() {
            if vitals.phase() == Phase::Sending {
                vitals.note_progress(now);
            }
            let lasted = now.saturating_duration_since(vitals.since.get());
            if limits.overstayed(vitals.phase(), lasted) {
                tracing::debug!(phase = ?vitals.phase(), ?lasted, "a connection took too long");
                vitals.cut();
                ended += 1;
            } else if vitals.phase() != Phase::Sending {
                vitals.socket.release_taken();
                if lasted >= LARGE_BUFFER_KEPT {
                    vitals.narrow();
                }
            }
        }
        ended
    }

    /// Ends the slowest connections until `wanted` of what is short comes free, as far as any are
    /// slow. Returns how many.
    pub(crate) fn give_way(
        &self,
        shortage: Shortage,
        idle_min: Duration,
        wanted: u64,
        now: Instant,
    ) -> usize {
        if wanted == 0 {
            return 0;
        }
        let all = self.all.borrow();
        let candidate = |vitals: &Rc<Vitals>| vitals.candidate(shortage, now);
        let (cut, going_on): (Vec<_>, Vec<_>) = all.iter().partition(|v| v.is_cut.get());
        // What already comes free needs no others to end.
        let coming: u64 = cut.into_iter().map(candidate).map(|one| one.holds).sum();
        let candidates: Vec<_> = going_on.iter().copied().map(candidate).collect();
        let slowest = slowest(&candidates, idle_min, wanted.saturating_sub(coming));
        slowest.iter().for_each(|at| going_on[*at].cut());
        slowest.len()
    }

    /// Takes no more requests. What has been received is still answered, then the connections end.
    pub(crate) fn stop_receiving(&self) {
        for vitals in self.all.borrow().iter() {
            vitals.shut_down_direction(Shutdown::Read);
        }
    }

    /// Ends all connections, whatever they are doing.
    pub(crate) fn shut_down(&self) {
        for vitals in self.all.borrow().iter() {
            vitals.shut_down();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PhaseLimits = PhaseLimits {
        idle: Duration::from_secs(600),
        receiving: Duration::from_secs(30),
        sending: Duration::from_secs(20),
    };

    #[test]
    fn each_phase_has_a_limit_of_its_own() {
        let second = Duration::from_secs(1);
        assert!(!LIMITS.overstayed(Phase::Idle, LIMITS.idle));
        assert!(LIMITS.overstayed(Phase::Idle, LIMITS.idle + second));
        assert!(LIMITS.overstayed(Phase::Receiving, LIMITS.receiving + second));
        assert!(LIMITS.overstayed(Phase::Sending, LIMITS.sending + second));
    }

    #[test]
    fn a_request_being_answered_is_left_to_its_own_max_wait() {
        assert!(!LIMITS.overstayed(Phase::Working, Duration::from_secs(1 << 20)));
    }
}
