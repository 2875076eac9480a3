//! /events: the stream of server-sent events that feeds the live page.
//!
//! ```text
//!   first page opens ──► sampling task ──► latest ──► a task a page ──► its connection
//!   last page closes ──► it ends             └ a slow page misses events and gets the newest
//! ```
//!
//! Without an open page nothing runs. The number of pages is bounded; one that takes nothing for
//! [`STALLED`] is cut off. Runs on the main thread's runtime; sampling is on a thread that may
//! block.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame};
use parking_lot::Mutex;
use penstock_ring::blocking;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::broker::Broker;
use crate::http::sampler::{Latest, OVERVIEW_EVERY, Sampler};
use crate::stop::{Stop, wait_for};

/// Pages open at once.
pub(super) const VIEWERS_MAX: usize = 8;

/// How long a page may take nothing.
const STALLED: Duration = Duration::from_secs(30);

/// How soon a browser asks again after the stream has broken, in milliseconds.
const RETRY: &[u8] = b"retry: 2000\n\n";

/// Where events come from.
pub(super) trait Source: Send + Sync + 'static {
    /// The newest events, gathered now.
    fn gather(&self) -> impl Future<Output = Latest> + Send;
}

/// A server's numbers.
pub(super) struct OfBroker {
    broker: Arc<Broker>,
    /// Away while it works.
    sampler: Mutex<Sampler>,
}

/// What all open pages share.
pub(super) struct Feed<S> {
    source: S,
    stop: watch::Receiver<Stop>,
    places: Arc<Semaphore>,
    latest: watch::Sender<Latest>,
    /// Whether the sampling task runs. Held while a page begins or the task decides to end.
    is_sampling: Mutex<bool>,
}

/// The body of one stream. It ends when its task does.
pub(super) struct Events {
    frames: mpsc::Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl OfBroker {
    pub(super) fn new(broker: Arc<Broker>) -> OfBroker {
        OfBroker { broker, sampler: Mutex::default() }
    }
}

impl Source for OfBroker {
    async fn gather(&self) -> Latest {
        let broker = Arc::clone(&self.broker);
        broker.readers.look_up().await;
        let mut sampler = std::mem::take(&mut *self.sampler.lock());
        let sampling = blocking::run(move || {
            let latest = sampler.sample(&broker, Instant::now());
            (sampler, latest)
        });
        let (sampler, latest) = sampling.await.unwrap_or_default();
        *self.sampler.lock() = sampler;
        latest
    }
}

impl<S: Source> Feed<S> {
    pub(super) fn new(source: S, stop: watch::Receiver<Stop>) -> Arc<Feed<S>> {
        let places = Arc::new(Semaphore::new(VIEWERS_MAX));
        let latest = watch::Sender::new(Latest::default());
        Arc::new(Feed { source, stop, places, latest, is_sampling: Mutex::new(false) })
    }

    /// Begins a stream. `None`: all places are taken. `stalled` is notified if the page takes
    /// nothing for too long; its connection must end then.
    pub(super) fn open(self: &Arc<Self>, stalled: Arc<Notify>) -> Option<Events> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let (sender, frames) = mpsc::channel(1);
        let mut is_sampling = self.is_sampling.lock();
        let mut latest = self.latest.subscribe();
        if std::mem::replace(&mut *is_sampling, true) {
            // The newest events are at most some seconds old.
            latest.mark_changed();
        } else {
            tokio::spawn(Arc::clone(self).sample());
        }
        tokio::spawn(show(latest, sender, self.stop.clone(), stalled, STALLED));
        Some(Events { frames, _place: place })
    }

    /// Samples until no page is open.
    async fn sample(self: Arc<Self>) {
        let mut stop = self.stop.clone();
        loop {
            self.latest.send_replace(self.source.gather().await);
            tokio::select! {
                () = tokio::time::sleep(OVERVIEW_EVERY) => {}
                () = self.latest.closed() => {}
                () = wait_for(&mut stop, Stop::Drain) => {}
            }
            let mut is_sampling = self.is_sampling.lock();
            if self.latest.receiver_count() == 0 || *stop.borrow() >= Stop::Drain {
                *is_sampling = false;
                return;
            }
        }
    }
}

/// Hands one page the newest events until it closes, stalls or the server stops.
async fn show(
    mut latest: watch::Receiver<Latest>,
    frames: mpsc::Sender<Bytes>,
    mut stop: watch::Receiver<Stop>,
    stalled: Arc<Notify>,
    patience: Duration,
) {
    let mut map_number = 0;
    let mut next = Bytes::from_static(RETRY);
    loop {
        match tokio::time::timeout(patience, frames.send(next)).await {
            Ok(Ok(())) => {}
            Ok(Err(_closed)) => return,
            Err(_elapsed) => return stalled.notify_one(),
        }
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            () = frames.closed() => return,
            () = wait_for(&mut stop, Stop::Drain) => return,
        }
        let latest = latest.borrow_and_update();
        next = match latest.map_number == map_number {
            true => latest.overview.clone(),
            false => [&latest.overview[..], &latest.map].concat().into(),
        };
        map_number = latest.map_number;
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.frames.poll_recv(context).map(|frame| frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    fn latest(map_number: u64) -> Latest {
        let (overview, map) = (format!("o{map_number} ").into(), format!("m{map_number} ").into());
        Latest { overview, map, map_number }
    }

    /// Counts how often it is asked.
    #[derive(Default)]
    struct Counted(AtomicU64);

    impl Source for Counted {
        async fn gather(&self) -> Latest {
            latest(self.0.fetch_add(1, Relaxed) + 1)
        }
    }

    async fn until(what: impl Fn() -> bool) {
        while !what() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn nothing_is_gathered_before_the_first_page_opens_nor_after_the_last_one_closes() {
        let (_stop, stop) = watch::channel(Stop::No);
        let feed = Feed::new(Counted::default(), stop);
        let (is_sampling, gathered) = (|| *feed.is_sampling.lock(), || feed.source.0.load(Relaxed));
        assert_eq!((is_sampling(), gathered()), (false, 0));
        for opened in 1..=3 {
            let (first, second) = (feed.open(Arc::default()), feed.open(Arc::default()));
            until(|| gathered() == opened).await;
            assert!(is_sampling() && first.is_some() && second.is_some());
            drop((first, second));
            until(|| !is_sampling()).await;
            assert_eq!((gathered(), feed.latest.receiver_count()), (opened, 0));
        }
    }

    #[tokio::test]
    async fn pages_have_a_bound_and_a_closed_one_makes_room() {
        let (_stop, stop) = watch::channel(Stop::No);
        let feed = Feed::new(Counted::default(), stop);
        let open = || feed.open(Arc::default());
        let mut pages: Vec<Events> = std::iter::repeat_with(open).map_while(|page| page).collect();
        assert_eq!(pages.len(), VIEWERS_MAX);
        pages.pop();
        assert!(open().is_some());
    }

    #[tokio::test]
    async fn a_page_gets_each_map_once_and_the_newest_of_what_it_missed() {
        let (source, (sender, mut frames)) = (watch::Sender::new(latest(0)), mpsc::channel(1));
        let (_stop, stop) = watch::channel(Stop::No);
        tokio::spawn(show(source.subscribe(), sender, stop, Arc::default(), STALLED));
        assert_eq!(frames.recv().await.unwrap(), RETRY);
        source.send_replace(latest(1));
        assert_eq!(frames.recv().await.unwrap(), "o1 m1 ");
        source.send_replace(latest(1));
        assert_eq!(frames.recv().await.unwrap(), "o1 ");
        source.send_replace(latest(2));
        source.send_replace(latest(3));
        assert_eq!(frames.recv().await.unwrap(), "o3 m3 ");
    }

    #[tokio::test]
    async fn a_page_that_takes_nothing_is_cut_off() {
        let (source, (sender, _frames)) = (watch::Sender::new(latest(0)), mpsc::channel(1));
        let (_stop, stop) = watch::channel(Stop::No);
        let stalled = Arc::new(Notify::new());
        tokio::spawn(show(
            source.subscribe(),
            sender,
            stop,
            Arc::clone(&stalled),
            Duration::from_millis(1),
        ));
        tokio::task::yield_now().await;
        source.send_replace(latest(1));
        stalled.notified().await;
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_page_and_with_the_server() {
        for by_stop in [false, true] {
            let (source, (sender, frames)) = (watch::Sender::new(latest(0)), mpsc::channel(1));
            let (stopping, stop) = watch::channel(Stop::No);
            let shown =
                tokio::spawn(show(source.subscribe(), sender, stop, Arc::default(), STALLED));
            let mut frames = Some(frames);
            match by_stop {
                true => drop(stopping.send_replace(Stop::Drain)),
                false => drop(frames.take()),
            }
            shown.await.unwrap();
        }
    }
}
