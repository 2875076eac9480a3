//! /metrics, /readers.json, /healthz and /readyz for monitoring, and the live page for people.
//!
//! Runs on the main thread's runtime beside housekeeping, never on a worker. page.rs has the
//! document; events.rs feeds it from what sampler.rs and overview.rs gather. A connection has one
//! request. How many there are at once, how many large answers are in memory, and how long each
//! takes is bounded (places.rs), because a peer may ask nothing, or take no answer.

mod events;
mod overview;
mod page;
mod places;
mod sampler;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use penstock_storage::PartitionName;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use crate::broker::Broker;
use crate::broker::lags::Lag;
use crate::broker::readers::ReaderView;
use crate::http::events::{Events, Feed, OfBroker, VIEWERS_MAX};
use crate::http::places::{Place, Places};
use crate::stop::{Stop, wait_for};

/// The header of a request must be complete within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The whole answer must be taken within this time of accepting. A stream of events has its own
/// limit.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Connections at once, beside those of open pages.
const CONNECTIONS_MAX: usize = 64;

/// Answers at once that have a row for each reader or group: some megabytes each, at most.
const TABLES_MAX: usize = 4;

/// How long a request waits for a place among these. The oldest gives way before.
const TABLE_WITHIN: Duration = Duration::from_secs(2);

/// Connections that are refused at once; beyond them one is closed without a word.
const REFUSALS_MAX: usize = 64;

/// How long a refused connection has to ask and to take its answer.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// Request headers are kept in memory up to here.
const HEADER_BYTES_MAX: usize = 16 * 1024;

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

/// What all connections share.
struct Shared {
    broker: Arc<Broker>,
    feed: Arc<Feed<OfBroker>>,
    connections: Arc<Places>,
    tables: Arc<Places>,
}

/// One connection, and the places that it has.
struct Connection {
    /// Notified when it must end.
    cut: Arc<Notify>,
    /// `None` once it is an open page, which events.rs counts and bounds.
    place: Mutex<Option<Place>>,
    table: Mutex<Option<Place>>,
}

async fn accept(broker: Arc<Broker>, listener: TcpListener, mut stop: watch::Receiver<Stop>) {
    let feed = Feed::new(OfBroker::new(Arc::clone(&broker)), stop.clone());
    let (connections, tables) = (Places::new(CONNECTIONS_MAX), Places::new(TABLES_MAX));
    let shared = Arc::new(Shared { broker, feed, connections, tables });
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = wait_for(&mut stop, Stop::Cut) => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let cut = Arc::<Notify>::default();
        match shared.connections.take(&cut, Instant::now()) {
            Some(place) => {
                let (place, table) = (Mutex::new(Some(place)), Mutex::default());
                let connection = Connection { cut, place, table };
                tokio::spawn(answer(Arc::clone(&shared), connection, stream));
            }
            None => {
                let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() else { continue };
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(permit);
                });
            }
        }
    }
}

/// The body of /readers.json.
#[derive(Serialize)]
struct Readers {
    readers: Vec<ReaderView>,
    groups: Vec<Lag>,
    /// Committed offsets that are not among `groups` this time.
    groups_left_out: usize,
}

/// Answers the request of one connection. It ends once the answer is taken, its time is over,
/// another one needs its place, or its page takes no more events.
async fn answer(shared: Arc<Shared>, connection: Connection, stream: TcpStream) {
    let responding = service_fn(|request| {
        let (shared, connection) = (&shared, &connection);
        async move { Ok::<_, Infallible>(respond(shared, connection, &request).await) }
    });
    let time_is_over = async {
        tokio::time::sleep(TAKEN_WITHIN).await;
        let is_page = connection.place.lock().is_none();
        if is_page {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = http1(HEADER_TIMEOUT).serve_connection(TokioIo::new(stream), responding) => {
            if let Err(error) = served {
                tracing::debug!(%error, "a metrics connection ended");
            }
        }
        () = connection.cut.notified() => tracing::debug!("a metrics connection was cut off"),
        () = time_is_over => tracing::debug!("a metrics connection took too long"),
    }
}

/// Answers that there is no place. The request is read first: where bytes are left unread, closing
/// a socket may cost the peer the answer.
async fn refuse(stream: TcpStream) {
    let refusing = service_fn(|_: Request<Incoming>| async {
        let full = format!("{CONNECTIONS_MAX} requests are under way, which is the most\n");
        Ok::<_, Infallible>(text(StatusCode::SERVICE_UNAVAILABLE, full))
    });
    let served = http1(REFUSED_WITHIN).serve_connection(TokioIo::new(stream), refusing);
    let _ = tokio::time::timeout(REFUSED_WITHIN, served).await;
}

fn http1(header_timeout: Duration) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header_timeout);
    builder.keep_alive(false).max_buf_size(HEADER_BYTES_MAX);
    builder
}

type Answer = Response<Either<Full<Bytes>, Events>>;

async fn respond(shared: &Shared, connection: &Connection, request: &Request<Incoming>) -> Answer {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    let broker = &*shared.broker;
    match request.uri().path() {
        "/" => page::response().map(Either::Left),
        "/events" => events(shared, connection),
        "/metrics" | "/readers.json" if !has_table(shared, connection).await => {
            let full = format!("{TABLES_MAX} such answers are under way, which is the most\n");
            text(StatusCode::SERVICE_UNAVAILABLE, full)
        }
        "/metrics" => metrics(broker).await,
        "/readers.json" => {
            broker.readers.look_up().await;
            let looked = broker.lags.look(&broker.topics, &broker.groups.offsets).await;
            json(&Readers {
                readers: broker.readers.snapshot(),
                groups: looked.lags,
                groups_left_out: looked.left_out,
            })
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if broker.metrics.is_ready() => {
            text(StatusCode::OK, ready(&broker.read_errors.partitions()))
        }
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => text(StatusCode::NOT_FOUND, "try /, /metrics, /readers.json, /healthz or /readyz\n"),
    }
}

/// Takes a place for a large answer, until the connection ends.
async fn has_table(shared: &Shared, connection: &Connection) -> bool {
    const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
    let began = Instant::now();
    loop {
        let place = shared.tables.take(&connection.cut, Instant::now());
        if place.is_some() || began.elapsed() > TABLE_WITHIN {
            let is_taken = place.is_some();
            *connection.table.lock() = place;
            return is_taken;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

fn events(shared: &Shared, connection: &Connection) -> Answer {
    match shared.feed.open(Arc::clone(&connection.cut)) {
        Some(events) => {
            connection.place.lock().take();
            stream(events)
        }
        None => {
            let full = format!("{VIEWERS_MAX} pages are open, which is the most\n");
            text(StatusCode::SERVICE_UNAVAILABLE, full)
        }
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
    let looked = broker.lags.look(&broker.topics, &broker.groups.offsets).await;
    broker.metrics.readers.show(broker.readers.report(), looked, Instant::now());
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
        Ok(mut body) => {
            // It stays as long as the peer likes; while it grew it took twice the room.
            body.shrink_to_fit();
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
