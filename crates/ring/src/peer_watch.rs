//! Whether the peer of a connection has left, watched by one poll for all requests that wait.
//!
//! The end of a peer's sending side is final. So the poll is queued by the first request that
//! waits, and stays in the kernel while requests are answered and others come: bytes do not wake
//! it, and no request has to queue and cancel one of its own. Called by the server, which keeps it
//! beside the socket. Dropping it takes the poll back.
//!
//! Without io_uring each wait watches for itself.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::epoll;
use crate::ring::Ring;
use crate::shared::Kernel;
use crate::socket::Socket;
use crate::uring::{OnSocket, Operation};

/// See the head of this file.
#[derive(Default)]
pub struct PeerWatch(RefCell<State>);

#[derive(Default)]
enum State {
    /// No request has waited yet.
    #[default]
    None,
    Watching(Operation<OnSocket>),
    Closed,
}

impl PeerWatch {
    /// Waits until the peer has closed its sending side, or the connection has failed. Bytes that
    /// are still to be received make no difference. One request waits at a time, and always with
    /// the same socket.
    pub async fn closed(&self, ring: &Ring, socket: &Rc<Socket>) {
        match ring.kernel() {
            Kernel::Uring(uring) => {
                let state = &mut *self.0.borrow_mut();
                if matches!(state, State::None) {
                    let poll = uring.begin_poll(Rc::clone(socket), libc::POLLRDHUP);
                    *state = State::Watching(poll);
                }
            }
            // An error of the socket is as good as an end.
            Kernel::Epoll { .. } => return drop(epoll::peer_closed(socket).await),
        }
        poll_fn(|context| self.poll_closed(context)).await;
    }

    fn poll_closed(&self, context: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.0.borrow_mut();
        if let State::Watching(poll) = state {
            let _outcome = ready!(poll.poll_on_socket(context));
            *state = State::Closed;
        }
        Poll::Ready(())
    }
}
