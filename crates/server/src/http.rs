//! /metrics, /readers.json, /healthz and /readyz for monitoring, and the live page for people.
//!
//! Runs on the main thread's runtime beside housekeeping, never on a worker. page.rs has the
//! document; events.rs feeds it from what sampler.rs and overview.rs gather.

mod events;
mod overview;
mod page;
mod sampler;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use penstock_storage::PartitionName;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::broker::Broker;
use crate::broker::lags::Lag;
use crate::broker::readers::ReaderView;
use crate::http::events::{Events, Feed, OfBroker, VIEWERS_MAX};
use crate::stop::{Stop, wait_for};

/// The header of a request must be complete within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const JSON: &str = "application/json";

/// Starts answering, if an address is configured, and returns the bound address.
///
/// # Errors
/// The address cannot be bound.
pub(crate) async fn serve(
    broker: Arc<Broker>,
    stop: watch::Receiver<Stop>,
) -> anyhow::Result<Option<SocketAddr>> {
    let Some(address) = broker.settings.metrics else { return Ok(None) };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for metrics"))?;
    let bound = listener.local_addr()?;
    tokio::spawn(accept(broker, listener, stop));
    Ok(Some(bound))
}

async fn accept(broker: Arc<Broker>, listener: TcpListener, mut stop: watch::Receiver<Stop>) {
    let feed = Feed::new(OfBroker::new(Arc::clone(&broker)), stop.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = wait_for(&mut stop, Stop::Cut) => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        tokio::spawn(answer(Arc::clone(&broker), Arc::clone(&feed), stream));
    }
}

/// The body of /readers.json.
#[derive(Serialize)]
struct Readers {
    readers: Vec<ReaderView>,
    groups: Vec<Lag>,
}

/// Answers the requests of one connection until it ends, or its page takes no more events.
async fn answer(broker: Arc<Broker>, feed: Arc<Feed<OfBroker>>, stream: TcpStream) {
    let stalled = Arc::new(Notify::new());
    let responding = service_fn(|request| {
        let (broker, feed, stalled) = (&broker, &feed, &stalled);
        async move { Ok::<_, Infallible>(respond(broker, feed, stalled, &request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), responding);
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%error, "a metrics connection ended");
        },
        () = stalled.notified() => tracing::debug!("a page took no events and was cut off"),
    }
}

type Answer = Response<Either<Full<Bytes>, Events>>;

async fn respond(
    broker: &Broker,
    feed: &Arc<Feed<OfBroker>>,
    stalled: &Arc<Notify>,
    request: &Request<Incoming>,
) -> Answer {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/" => page::response().map(Either::Left),
        "/events" => match feed.open(Arc::clone(stalled)) {
            Some(events) => stream(events),
            None => {
                let full = format!("{VIEWERS_MAX} pages are open, which is the most\n");
                text(StatusCode::SERVICE_UNAVAILABLE, full)
            }
        },
        "/metrics" => metrics(broker).await,
        "/readers.json" => {
            broker.readers.look_up().await;
            let lags = broker.lags.look(&broker.topics, &broker.groups.offsets).await;
            json(&Readers { readers: broker.readers.snapshot(), groups: lags })
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if broker.metrics.is_ready() => {
            text(StatusCode::OK, ready(&broker.read_errors.partitions()))
        }
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => text(StatusCode::NOT_FOUND, "try /, /metrics, /readers.json, /healthz or /readyz\n"),
    }
}

async fn metrics(broker: &Broker) -> Answer {
    broker.metrics.partitions.set(broker.topics.partition_count() as i64);
    broker.metrics.partitions_offline.set(broker.topics.offline_count() as i64);
    let unreadable = broker.read_errors.partitions().len();
    broker.metrics.partitions_unreadable.set(unreadable as i64);
    let (damaged_ranges, damaged_bytes) = broker.topics.damage();
    broker.metrics.damaged_ranges.set(damaged_ranges as i64);
    broker.metrics.damaged_bytes.set(damaged_bytes as i64);
    broker.metrics.show_memory(&broker.memory);
    broker.readers.look_up().await;
    let lags = broker.lags.look(&broker.topics, &broker.groups.offsets).await;
    broker.metrics.readers.show(broker.readers.report(), lags);
    let mut response = text(StatusCode::OK, broker.metrics.text());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    response
}

fn stream(events: Events) -> Answer {
    let mut response = Response::new(Either::Right(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A server that cannot read some places of its disk is ready: it serves all other places.
/// Kubernetes takes a server out of service at any other status, and with it those other places.
fn ready(unreadable: &[PartitionName]) -> String {
    const NAMED: usize = 10;
    let names: Vec<String> = unreadable.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if unreadable.len() > NAMED { ", …" } else { "" };
    match unreadable.len() {
        0 => "ready\n".to_owned(),
        count => format!(
            "ready; {count} partitions have places that cannot be read: {}{more}\n",
            names.join(", ")
        ),
    }
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = text(StatusCode::OK, body);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode: {error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_names_some_partitions_that_cannot_be_read() {
        let unreadable = |count| -> Vec<PartitionName> {
            (0..count).map(|partition| PartitionName { topic: "t".into(), partition }).collect()
        };
        assert_eq!(ready(&[]), "ready\n");
        let two = "ready; 2 partitions have places that cannot be read: t-0, t-1\n";
        assert_eq!(ready(&unreadable(2)), two);
        assert!(ready(&unreadable(1000)).len() < 150);
    }
}
