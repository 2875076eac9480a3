//! The state that all clones of one [`Ring`](crate::Ring) share: the kernel interface, the pools,
//! and what the ring knows of the page cache.
//!
//! ring.rs holds it behind an `Rc` and lends it to perform.rs for each transfer. Calls that both of
//! them need are methods here.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::Notify;

use crate::counters::Counters;
use crate::epoll;
use crate::error::RingError;
use crate::file_range::FileRange;
use crate::pins::PinTable;
use crate::ring_config::{RingConfig, Sight};
use crate::socket::Socket;
use crate::sys::Advice;
use crate::transfer::cold_places::{ColdPlace, ColdPlaces};
use crate::transfer::pipes::Pipes;
use crate::transfer::residency::Residency;
use crate::transfer::stage::Stage;
use crate::transfer::workers::Workers;
use crate::uring::Uring;

/// The state of one ring.
pub(crate) struct Shared {
    pub(crate) kernel: Kernel,
    pub(crate) pipes: Pipes,
    /// None: no bound.
    pub(crate) pins: Option<Rc<PinTable>>,
    pub(crate) residency: Residency,
    /// The buffer that the last copying transfer left for the next.
    pub(crate) spare_stage: Cell<Stage>,
    /// How many full stages wait for peers.
    pub(crate) parked_stages: Rc<Cell<usize>>,
    pub(crate) workers: Workers,
    pub(crate) cold_places: ColdPlaces,
    pub(crate) config: RingConfig,
    pub(crate) counters: Arc<Counters>,
    /// Why io_uring is not in use although the configuration allowed it.
    pub(crate) unavailable: Option<RingError>,
}

/// The kernel interface of a ring, with what it needs.
pub(crate) enum Kernel {
    Uring(Rc<Uring>),
    Epoll { stopped: Notify },
}

impl Shared {
    pub(crate) fn new(
        kernel: Kernel,
        unavailable: Option<RingError>,
        config: RingConfig,
        counters: Arc<Counters>,
    ) -> Shared {
        Shared {
            kernel,
            pipes: Pipes::new(&config, Arc::clone(&counters)),
            pins: config.page_budget.clone().map(PinTable::new),
            residency: Residency::new(config.sight),
            spare_stage: Cell::default(),
            parked_stages: Rc::default(),
            workers: Workers::of_this_thread(),
            cold_places: ColdPlaces::new(config.cold_chains, config.cold_chains_beside_hot),
            config,
            counters,
            unavailable,
        }
    }

    /// Waits for a place among the chains that may wait for a disk.
    pub(crate) async fn admit_cold(&self) -> ColdPlace {
        let now = Instant::now();
        if self.cold_places.is_full(now) {
            self.counters.cold_waits.add(1);
        }
        self.cold_places.take(now).await
    }

    /// Drops pages from the page cache, but for those in use at this moment.
    pub(crate) fn drop_pages(&self, range: &FileRange) {
        if let Kernel::Uring(uring) = &self.kernel {
            self.residency.forget(range);
            uring.advise(range, Advice::DontNeed);
        }
    }

    /// See [`Ring::read_at`](crate::Ring::read_at).
    pub(crate) async fn read_at(
        &self,
        file: Arc<File>,
        position: u64,
        len_bytes: usize,
    ) -> io::Result<Bytes> {
        let mut buffer = BytesMut::with_capacity(len_bytes);
        while buffer.len() < len_bytes {
            let (from, missing) = (position + buffer.len() as u64, len_bytes - buffer.len());
            let result;
            (result, buffer) = match &self.kernel {
                Kernel::Uring(uring) => uring.read(Arc::clone(&file), from, missing, buffer).await,
                Kernel::Epoll { .. } => epoll::read(Arc::clone(&file), from, missing, buffer).await,
            };
            match result {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(buffer.freeze())
    }

    /// See [`Ring::read_cached_at`](crate::Ring::read_cached_at).
    pub(crate) fn read_cached_at(
        &self,
        file: &Arc<File>,
        position: u64,
        buffer: &mut [u8],
    ) -> io::Result<Option<usize>> {
        let flags = match self.config.sight {
            Sight::Cachestat => ReadWriteFlags::NOWAIT,
            _ => {
                let len_bytes = buffer.len() as u64;
                let range = FileRange { file: Arc::clone(file), position, len_bytes };
                if !self.residency.is_cached(&range, false, Instant::now()) {
                    return Ok(None);
                }
                ReadWriteFlags::empty()
            }
        };
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], position, flags) {
            Ok(len_bytes) => Ok(Some(len_bytes)),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// See [`Ring::writable`](crate::Ring::writable).
    pub(crate) async fn writable(&self, socket: &Rc<Socket>) -> io::Result<()> {
        match &self.kernel {
            Kernel::Uring(uring) => uring.poll(Rc::clone(socket), libc::POLLOUT).await.map(drop),
            Kernel::Epoll { .. } => epoll::writable(socket).await,
        }
    }
}
