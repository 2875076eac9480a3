//! The connections of one worker, and the sweep that ends those that take too long.
//!
//! A connection says which phase it is in; once a second the sweep compares how long it has been there
//! with the phase's limit and, past it, shuts the socket down. Shutting down is the one way to end a
//! connection from outside: whatever operation it has in the kernel ends by it (KERNEL.md, row 13), and
//! its task then finds the end by itself. So the path of a request sets no timer, and there is one place
//! that knows all time-outs.
//!
//! ```text
//!   Idle ──first byte──► Receiving ──frame complete──► Working ──answer laid out──► Sending ──► Idle
//!   connections.max.idle.ms  frame.timeout.ms          (its own max_wait)       send.timeout.ms
//! ```

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};

use penstock_ring::Socket;

use crate::settings::Settings;

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

/// What the sweep sees of a connection.
#[derive(Debug)]
pub(crate) struct Vitals {
    socket: Rc<Socket>,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    taken_bytes: Cell<u64>,
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

    /// Whether a connection that has been in `phase` for `lasted` has overstayed.
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
    pub(crate) fn new(socket: Rc<Socket>) -> Rc<Self> {
        Rc::new(Vitals {
            socket,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(Instant::now()),
            taken_bytes: Cell::new(0),
        })
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
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

    /// A peer that takes anything at all of its answer starts its time anew.
    fn note_progress(&self, now: Instant) {
        let taken_bytes = self.socket.taken_bytes();
        if self.taken_bytes.replace(taken_bytes) != taken_bytes {
            self.since.set(now);
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

    /// Shuts down every connection that has overstayed in its phase, and says how many.
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
                vitals.shut_down();
                ended += 1;
            }
        }
        ended
    }

    /// No more requests: what has been received is still answered, then the connections end.
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
    fn each_phase_has_its_own_patience() {
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
