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

/// What all open pages share.
pub(super) struct Feed {
    broker: Arc<Broker>,
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

impl Feed {
    pub(super) fn new(broker: Arc<Broker>, stop: watch::Receiver<Stop>) -> Arc<Feed> {
        let places = Arc::new(Semaphore::new(VIEWERS_MAX));
        let latest = watch::Sender::new(Latest::default());
        Arc::new(Feed { broker, stop, places, latest, is_sampling: Mutex::new(false) })
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
        let (mut sampler, mut stop) = (Sampler::default(), self.stop.clone());
        loop {
            let broker = Arc::clone(&self.broker);
            broker.readers.look_up().await;
            let sampling = blocking::run(move || {
                let latest = sampler.sample(&broker, Instant::now());
                (sampler, latest)
            });
            let latest;
            (sampler, latest) = sampling.await.unwrap_or_default();
            self.latest.send_replace(latest);
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
    use super::*;

    fn latest(map_number: u64) -> Latest {
        let (overview, map) = (format!("o{map_number} ").into(), format!("m{map_number} ").into());
        Latest { overview, map, map_number }
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
