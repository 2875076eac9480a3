//! One connection of the generator: requests the next range, receives the head, drops the rest.
//!
//! The first bytes of an answer are received as usual, and the rest is dropped inside the kernel
//! (MSG_TRUNC, tcp(7)), which leaves more of the processor to the server. All protocols are treated
//! alike, so servers can be compared.

use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::BytesMut;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::protocol::{Protocol, Range};

/// Bytes received as usual: the head, and all of a small answer.
const HEAD_BYTES: usize = 8 << 10;
/// The most bytes that one call drops.
pub(crate) const DROP_AT_ONCE_BYTES: usize = 1 << 20;

/// Walks a part of the file in equal steps, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) next: Range,
}

/// A reader with its own part of the file.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    cursor: Cursor,
    request: BytesMut,
    /// The answer being received.
    asked: Range,
    /// When the range was requested.
    since: Instant,
    head: Box<[u8; HEAD_BYTES]>,
    received: usize,
    /// Bytes left of the answer. `None`: the head is not complete.
    left: Option<u64>,
}

impl Cursor {
    /// `count` walkers spread evenly over a part of the file. Each goes round in its share.
    ///
    /// # Errors
    /// The part is too small.
    pub(crate) fn spread(
        part: std::ops::Range<u64>,
        len_bytes: u32,
        count: usize,
    ) -> anyhow::Result<Vec<Cursor>> {
        let step = u64::from(len_bytes);
        let share = (part.end.saturating_sub(part.start)) / count as u64 / step * step;
        // With more readers than ranges, readers share a range.
        let places = (part.end.saturating_sub(part.start)) / step;
        ensure!(places > 0, "{len_bytes} bytes do not fit into {part:?}");
        let cursor = |index: u64| {
            let (start, len) = match share {
                0 => (part.start + index % places * step, step),
                share => (part.start + index * share, share),
            };
            let next = Range { position: start, len_bytes };
            Cursor { start, end: start + len, next }
        };
        Ok((0..count as u64).map(cursor).collect())
    }

    fn take(&mut self) -> Range {
        let taken = self.next;
        let following = taken.position + u64::from(taken.len_bytes);
        self.next.position = if following < self.end { following } else { self.start };
        taken
    }
}

impl Connection {
    pub(crate) fn open(
        server: SocketAddr,
        protocol: &Protocol,
        cursor: Cursor,
    ) -> anyhow::Result<Connection> {
        let stream =
            TcpStream::connect(server).with_context(|| format!("cannot reach {server}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Connection {
            stream,
            request: BytesMut::from(protocol.request(cursor.next)),
            asked: cursor.next,
            cursor,
            since: Instant::now(),
            head: Box::new([0; HEAD_BYTES]),
            received: 0,
            left: None,
        })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// When the current range was requested.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// The current or last range.
    pub(crate) fn asked(&self) -> Range {
        self.asked
    }

    /// Requests the next range. The send buffer is empty, so a request always fits.
    pub(crate) fn ask(&mut self, protocol: &Protocol, since: Instant) -> anyhow::Result<()> {
        self.asked = self.cursor.take();
        protocol.aim(&mut self.request, self.asked);
        (self.received, self.left, self.since) = (0, None, since);
        let sent = rustix::net::send(&self.stream, &self.request, SendFlags::NOSIGNAL)?;
        ensure!(sent == self.request.len(), "{sent} bytes of a request were sent");
        Ok(())
    }

    /// Receives the bytes that have come, and returns whether the answer is complete.
    pub(crate) fn receive(
        &mut self,
        protocol: &Protocol,
        nowhere: &mut [u8],
    ) -> anyhow::Result<bool> {
        loop {
            let more = match self.left {
                None => self.receive_head(protocol)?,
                Some(left) => self.drop_body(left, nowhere)?,
            };
            match self.left {
                Some(0) => return Ok(true),
                _ if more => {}
                _ => return Ok(false),
            }
        }
    }

    /// Whether more bytes may be ready now.
    fn receive_head(&mut self, protocol: &Protocol) -> anyhow::Result<bool> {
        let place = &mut self.head[self.received..];
        let room = place.len();
        let received = match rustix::net::recv(&self.stream, place, RecvFlags::empty()) {
            Err(Errno::AGAIN) => return Ok(false),
            other => other?.0,
        };
        ensure!(received > 0, "the server closed the connection");
        self.received += received;
        if let Some(head_len) = protocol.head_len(&self.head[..self.received], self.asked)? {
            let whole = head_len as u64 + u64::from(self.asked.len_bytes);
            let left = whole.checked_sub(self.received as u64);
            self.left = Some(left.context("the server sent more bytes than the answer has")?);
        }
        Ok(received == room)
    }

    fn drop_body(&mut self, left: u64, nowhere: &mut [u8]) -> anyhow::Result<bool> {
        let wanted = left.min(nowhere.len() as u64) as usize;
        let flags = RecvFlags::TRUNC;
        let dropped = match rustix::net::recv(&self.stream, &mut nowhere[..wanted], flags) {
            Err(Errno::AGAIN) => return Ok(false),
            other => other?.1,
        };
        ensure!(dropped > 0, "the server closed the connection in the middle of an answer");
        self.left =
            Some(left.checked_sub(dropped as u64).context("more bytes dropped than requested")?);
        Ok(dropped == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(mut cursor: Cursor, count: usize) -> Vec<u64> {
        (0..count).map(|_| cursor.take().position).collect()
    }

    #[test]
    fn readers_go_round_in_shares_of_their_own() -> anyhow::Result<()> {
        let [first, second] = &Cursor::spread(100..172, 10, 2)?[..] else { panic!("not two") };
        assert_eq!(positions(first.clone(), 5), [100, 110, 120, 100, 110]);
        assert_eq!(positions(second.clone(), 4), [130, 140, 150, 130]);
        Ok(())
    }

    #[test]
    fn more_readers_than_ranges_share_them() -> anyhow::Result<()> {
        let starts: Vec<u64> =
            Cursor::spread(0..20, 10, 3)?.into_iter().map(|cursor| cursor.start).collect();
        assert_eq!(starts, [0, 10, 0]);
        assert!(Cursor::spread(0..9, 10, 1).is_err());
        Ok(())
    }
}
