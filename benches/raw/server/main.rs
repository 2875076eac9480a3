//! `penstock-raw-server`: epoll and sendfile without a protocol. It shows what one thread of the
//! machine can do.
//!
//! ```text
//! request   position u64 │ length u32 │ id u32          little-endian, 16 bytes
//! answer    the request again          │ length bytes of the file from position on
//! ```
//!
//! It is for benches only, and trusts its peers. A request beyond the end of the file closes the
//! connection.

mod connection;

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::connection::{Connection, Turn};

const EVENTS_AT_ONCE: usize = 256;
const LISTENER: u64 = u64::MAX;

/// Serves ranges of one file over TCP, zero copy, one thread, no protocol.
#[derive(Debug, Parser)]
struct Arguments {
    /// The file to serve
    file: PathBuf,

    /// Address to listen on. Port 0 takes any free port. The address is printed
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Most bytes of one sendfile call. 128 KiB is the best of 64 KiB to 1 MiB on loopback
    #[arg(long, default_value_t = 128 << 10, value_parser = clap::value_parser!(u64).range(1..))]
    call_bytes: u64,

    /// SO_SNDBUF of every connection. 0: the kernel tunes it
    #[arg(long, default_value_t = 256 << 10)]
    send_buffer_bytes: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let context = || format!("cannot serve {}", arguments.file.display());
    let file = File::open(&arguments.file).with_context(context)?;
    let listener = TcpListener::bind(arguments.listen)?;
    listener.set_nonblocking(true)?;
    println!("raw server listens on {}", listener.local_addr()?);
    Server::new(file, listener, &arguments)?.run()
}

struct Server {
    file: File,
    listener: TcpListener,
    call_bytes: usize,
    send_buffer_bytes: usize,
    epoll: OwnedFd,
    /// Connections by the key of their events.
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

impl Server {
    fn new(file: File, listener: TcpListener, arguments: &Arguments) -> anyhow::Result<Server> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let &Arguments { call_bytes, send_buffer_bytes, .. } = arguments;
        let (call_bytes, connections, free) = (call_bytes as usize, Vec::new(), Vec::new());
        Ok(Server { file, listener, call_bytes, send_buffer_bytes, epoll, connections, free })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    key => self.turn(key as usize),
                }
            }
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.adopt(stream)?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot accept"),
            }
        }
    }

    fn adopt(&mut self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        if self.send_buffer_bytes > 0 {
            rustix::net::sockopt::set_socket_send_buffer_size(&stream, self.send_buffer_bytes)?;
        }
        let key = self.free.pop().unwrap_or(self.connections.len());
        epoll::add(&self.epoll, &stream, EventData::new_u64(key as u64), EventFlags::IN)?;
        let connection = Some(Connection::new(stream));
        match self.connections.get_mut(key) {
            Some(place) => *place = connection,
            None => self.connections.push(connection),
        }
        Ok(())
    }

    /// Lets a connection go on. One that ended in an earlier event of the same batch is skipped.
    fn turn(&mut self, key: usize) {
        let Some(connection) = &mut self.connections[key] else { return };
        let was_waiting_for = connection.waits_for();
        let ended = match connection.turn(&self.file, self.call_bytes) {
            Ok(Turn::Waits) => false,
            Ok(Turn::Ended) | Err(_) => true,
        };
        let waits_for = connection.waits_for();
        let data = EventData::new_u64(key as u64);
        let moved = waits_for != was_waiting_for;
        let lost =
            moved && epoll::modify(&self.epoll, connection.stream(), data, waits_for).is_err();
        if ended || lost {
            self.connections[key] = None;
            self.free.push(key);
        }
    }
}
