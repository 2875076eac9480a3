//! One connection of the raw server: a request of 16 bytes, then header and range, again and again.

use std::fs::File;
use std::net::TcpStream;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

const REQUEST_LEN: usize = 16;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    position: u64,
    len_bytes: u32,
}

#[derive(Debug)]
enum State {
    /// Bytes of a request received so far.
    Receiving(usize),
    /// Header bytes sent, and the rest of the range.
    Sending { header_sent: usize, position: u64, left: u64 },
}

/// The end of a turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Waits,
    Ended,
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    request: [u8; REQUEST_LEN],
    state: State,
}

impl Connection {
    /// A connection of a non-blocking socket.
    pub(crate) fn new(stream: TcpStream) -> Connection {
        Connection { stream, request: [0; REQUEST_LEN], state: State::Receiving(0) }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn waits_for(&self) -> EventFlags {
        match self.state {
            State::Receiving(_) => EventFlags::IN,
            State::Sending { .. } => EventFlags::OUT,
        }
    }

    /// Works on at most one request, until the socket would block.
    pub(crate) fn turn(&mut self, file: &File, call_bytes: usize) -> Result<Turn, Errno> {
        let outcome = match self.state {
            State::Receiving(_) => self.receive(file, call_bytes),
            State::Sending { .. } => self.send(file, call_bytes),
        };
        match outcome {
            Err(Errno::AGAIN) => Ok(Turn::Waits),
            other => other,
        }
    }

    fn receive(&mut self, file: &File, call_bytes: usize) -> Result<Turn, Errno> {
        let State::Receiving(here) = &mut self.state else { return Ok(Turn::Waits) };
        let (received, _) =
            rustix::net::recv(&self.stream, &mut self.request[*here..], RecvFlags::empty())?;
        if received == 0 {
            return Ok(Turn::Ended);
        }
        *here += received;
        if *here < REQUEST_LEN {
            return Ok(Turn::Waits);
        }
        let Request { position, len_bytes } = parse(&self.request);
        self.state = State::Sending { header_sent: 0, position, left: len_bytes.into() };
        self.send(file, call_bytes)
    }

    fn send(&mut self, file: &File, call_bytes: usize) -> Result<Turn, Errno> {
        let State::Sending { header_sent, position, left } = &mut self.state else {
            return Ok(Turn::Waits);
        };
        while *header_sent < REQUEST_LEN {
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            *header_sent += rustix::net::send(&self.stream, &self.request[*header_sent..], flags)?;
        }
        while *left > 0 {
            let count = (*left).min(call_bytes as u64) as usize;
            match rustix::fs::sendfile(&self.stream, file, Some(position), count)? {
                0 => return Ok(Turn::Ended),
                sent => *left -= sent as u64,
            }
        }
        self.state = State::Receiving(0);
        Ok(Turn::Waits)
    }
}

fn parse(request: &[u8; REQUEST_LEN]) -> Request {
    let (position, rest) = request.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let len_bytes = rest.first_chunk().unwrap_or(&[0; 4]);
    Request { position: u64::from_le_bytes(*position), len_bytes: u32::from_le_bytes(*len_bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_position_length_and_an_id_that_does_not_matter() {
        let mut request = [0xff; REQUEST_LEN];
        request[..8].copy_from_slice(&0x0102_0304_0506_u64.to_le_bytes());
        request[8..12].copy_from_slice(&4096_u32.to_le_bytes());
        let expected = Request { position: 0x0102_0304_0506, len_bytes: 4096 };
        assert_eq!(parse(&request), expected);
    }
}
