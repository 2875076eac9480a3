//! The workers' threads: begun before anything is opened, given the broker once it is open, waited
//! for at a stop.
//!
//! ```text
//!   muster ──► thread, runtime, ring with its kernel workers ──► begun
//!      └─ one is not to be had: the start is refused, and has touched nothing
//!   serve  ──► connections, until a stop ──► ended
//!   drain  ──► all have ended
//! ```
//!
//! So a start finds a lack of threads. One that comes later makes a server slower and nothing else.
//! Called by serve.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, anyhow};
use penstock_ring::{RAISE_THREADS, RingConfig};
use tokio::sync::{oneshot, watch};

use crate::api::long_requests::LongRequests;
use crate::broker::Broker;
use crate::causes::Causes;
use crate::net::long_worker::{self, LongOrders};
use crate::net::worker::{self, Orders};
use crate::stop::Stop;

/// All workers of a server.
pub(crate) struct Crew(Vec<Member>);

struct Member {
    thread: JoinHandle<anyhow::Result<()>>,
    /// The broker to serve.
    broker: oneshot::Sender<Arc<Broker>>,
    /// Fails just before the thread ends.
    ended: oneshot::Receiver<()>,
}

/// Workers that serve.
pub(crate) struct Serving(Vec<(JoinHandle<anyhow::Result<()>>, oneshot::Receiver<()>)>);

impl Crew {
    /// Begins a worker for each listener. Returns once each has all that it needs.
    ///
    /// # Errors
    /// A thread, a runtime or a ring is not to be had. Workers that were begun end by themselves.
    pub(crate) async fn muster(
        listeners: Vec<TcpListener>,
        ring: &RingConfig,
        stop: &watch::Sender<Stop>,
    ) -> anyhow::Result<Crew> {
        let (long, requests) = LongRequests::new();
        let (watching, long_stop) = (|| stop.subscribe(), stop.subscribe());
        let long_worker = Member::begin("long-requests".to_owned(), stop, |begun, broker| {
            long_worker::run(LongOrders { requests, stop: long_stop, begun, broker })
        });
        let mut members = vec![long_worker.await?];
        for (number, listener) in listeners.into_iter().enumerate() {
            let (ring, long, stopping) = (ring.clone(), long.clone(), watching());
            let work = move |begun, broker| {
                worker::run(Orders { ring, listener, long, stop: stopping, begun, broker })
            };
            members.push(Member::begin(format!("worker-{number}"), stop, work).await?);
        }
        Ok(Crew(members))
    }

    /// Lets the workers serve.
    pub(crate) fn serve(self, broker: &Arc<Broker>) -> Serving {
        let serve = |member: Member| {
            // A worker that has ended has logged why, and has stopped the server.
            let _ = member.broker.send(Arc::clone(broker));
            (member.thread, member.ended)
        };
        Serving(self.0.into_iter().map(serve).collect())
    }
}

impl Serving {
    /// Waits until the workers have answered what is in flight, at most until `until`.
    ///
    /// # Errors
    /// A worker has failed.
    pub(crate) async fn drain(
        self,
        stop: &watch::Sender<Stop>,
        until: Instant,
    ) -> anyhow::Result<()> {
        let (threads, ends): (Vec<_>, Vec<_>) = self.0.into_iter().unzip();
        // No thread waits for the workers: the last one to be had may be the one they need.
        let all_ended = async {
            for ended in ends {
                let _ = ended.await;
            }
        };
        tokio::pin!(all_ended);
        tokio::select! {
            () = &mut all_ended => {}
            () = tokio::time::sleep_until(until.into()) => {
                tracing::warn!("requests were still in flight after three quarters of drain.timeout.ms: closing them");
                stop.send_modify(|stop| *stop = (*stop).max(Stop::Cut));
                all_ended.await;
            }
        }
        for thread in threads {
            let name = thread.thread().name().unwrap_or("a worker").to_owned();
            thread.join().map_err(|_| anyhow!("{name} panicked"))??;
        }
        Ok(())
    }
}

/// The end of a member's thread, by a panic, too. One that ends by itself stops the server: half a
/// server helps no client.
struct Ending {
    stop: watch::Sender<Stop>,
    _ended: oneshot::Sender<()>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.stop.send_modify(|stop| *stop = (*stop).max(Stop::Drain));
    }
}

impl Member {
    /// Begins a thread, and returns when it has all that it needs.
    async fn begin(
        name: String,
        stop: &watch::Sender<Stop>,
        run: impl FnOnce(oneshot::Sender<()>, oneshot::Receiver<Arc<Broker>>) -> anyhow::Result<()>
        + Send
        + 'static,
    ) -> anyhow::Result<Member> {
        let (begun, begins) = oneshot::channel();
        let (broker, serves) = oneshot::channel();
        let (ending, ended) = oneshot::channel::<()>();
        let (ending, named) = (Ending { stop: stop.clone(), _ended: ending }, name.clone());
        let work = move || {
            let _ending = ending;
            let outcome = run(begun, serves);
            if let Err(error) = &outcome {
                tracing::error!("{named} failed: {}", Causes(error));
            }
            outcome
        };
        let thread = std::thread::Builder::new().name(name.clone()).spawn(work);
        let thread =
            thread.with_context(|| format!("cannot start the thread {name}: {RAISE_THREADS}"))?;
        if begins.await.is_err() {
            let outcome = thread.join().map_err(|_| anyhow!("{name} panicked"))?;
            return Err(outcome.err().unwrap_or_else(|| anyhow!("{name} left")));
        }
        Ok(Member { thread, broker, ended })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stop::wait_for;

    /// A panic ended the thread and nothing else: the server went on, and every long request's
    /// connection was closed.
    #[tokio::test]
    async fn a_thread_that_panics_stops_the_server_with_its_name() {
        let (stop, mut watching) = watch::channel(Stop::No);
        let (panics, panic) = std::sync::mpsc::channel::<()>();
        let work = move |begun: oneshot::Sender<()>, _| {
            begun.send(()).unwrap();
            panic.recv().unwrap();
            panic!("a bug");
        };
        let member = Member::begin("long-requests".to_owned(), &stop, work).await.unwrap();
        assert_eq!(*stop.borrow(), Stop::No);
        panics.send(()).unwrap();
        wait_for(&mut watching, Stop::Drain).await;
        let serving = Serving(vec![(member.thread, member.ended)]);
        let drained = serving.drain(&stop, Instant::now() + Duration::from_secs(60)).await;
        assert_eq!(drained.unwrap_err().to_string(), "long-requests panicked");
    }
}
