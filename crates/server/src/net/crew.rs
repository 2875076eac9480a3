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

use crate::broker::Broker;
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
        let mut members = Vec::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            let (begun, begins) = oneshot::channel();
            let (broker, serves) = oneshot::channel();
            let ring = ring.clone();
            let orders = Orders { ring, listener, stop: stop.subscribe(), begun, broker: serves };
            let (thread, ended) = start(number, orders, stop.clone())?;
            if begins.await.is_err() {
                let outcome = thread.join().map_err(|_| anyhow!("a worker panicked"))?;
                return Err(outcome.err().unwrap_or_else(|| anyhow!("worker {number} left")));
            }
            members.push(Member { thread, broker, ended });
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
            thread.join().map_err(|_| anyhow!("a worker panicked"))??;
        }
        Ok(())
    }
}

fn start(
    number: usize,
    orders: Orders,
    stop: watch::Sender<Stop>,
) -> anyhow::Result<(JoinHandle<anyhow::Result<()>>, oneshot::Receiver<()>)> {
    let (ending, ended) = oneshot::channel::<()>();
    let work = move || {
        let _ending = ending;
        let outcome = worker::run(orders);
        if let Err(error) = &outcome {
            tracing::error!("worker {number} failed: {error:#}");
        }
        // A worker that ends by itself stops the server: half a server helps no client.
        stop.send_modify(|stop| *stop = (*stop).max(Stop::Drain));
        outcome
    };
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(work);
    let thread = thread.with_context(|| format!("cannot start a worker's thread: {RAISE_THREADS}"));
    Ok((thread?, ended))
}
