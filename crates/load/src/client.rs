//! One connection to one server: sends a request and receives its answer, one at a time.
//!
//! Used by the workloads and by `topic`. The receive buffer is used again as soon as the answer
//! before is dropped. Must never trust a length before its bytes have come.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use penstock_wire::frame;
use penstock_wire::messages::{ApiVersion, ApiVersionsRequest, FetchResponse, PartitionData};
use penstock_wire::{ApiKey, ErrorCode, Request, Response, decode_response, negotiate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The client id in requests.
const CLIENT_ID: &str = "penstock-load";
/// The largest answer accepted: Kafka's limit of a fetch and some more.
pub(crate) const MAX_FRAME_BYTES: u32 = 256 << 20;
/// Bytes reserved at first. Beyond them the buffer grows with the bytes that have come.
const GROW_BYTES: usize = 64 << 10;

/// A connection that knows the versions of its server.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// Bytes received and not yet consumed.
    pub(crate) received: BytesMut,
    /// The longest frame that has come, which is how much may be reserved before the next one
    /// comes.
    longest_frame: usize,
    address: String,
    versions: Vec<ApiVersion>,
    last_correlation_id: i32,
}

impl Connection {
    /// Connects to `HOST:PORT` and asks for the server's versions.
    ///
    /// # Errors
    /// The server is not reachable, or does not speak Kafka's protocol.
    pub(crate) async fn open(address: &str) -> Result<Connection> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let mut connection = Connection {
            stream,
            received: BytesMut::new(),
            longest_frame: 0,
            address: address.to_owned(),
            versions: Vec::new(),
            last_correlation_id: 0,
        };
        connection
            .ask_versions()
            .await
            .with_context(|| format!("{address} does not speak Kafka's protocol"))?;
        Ok(connection)
    }

    async fn ask_versions(&mut self) -> Result<()> {
        let request = Request::from(ApiVersionsRequest {
            client_software_name: CLIENT_ID.into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        });
        // A server that does not know version 3 answers in version 0, which all know.
        for version in [3, 0] {
            match self.call_in(version, &request).await? {
                Response::ApiVersions(answer) if answer.error_code.is_none() => {
                    self.versions = answer.api_keys;
                    return Ok(());
                }
                Response::ApiVersions(answer)
                    if answer.error_code == ErrorCode::UNSUPPORTED_VERSION => {}
                other => bail!("unexpected answer to ApiVersions: {other:?}"),
            }
        }
        bail!("ApiVersions is refused in version 0")
    }

    /// The highest version of `key` that both sides speak.
    ///
    /// # Errors
    /// There is no common version.
    pub(crate) fn version(&self, key: ApiKey) -> Result<i16> {
        let theirs = self.versions.iter().find(|api| api.api_key == key as i16);
        theirs.and_then(|api| negotiate(key, api.min_version, api.max_version)).with_context(|| {
            match theirs {
                Some(ApiVersion { min_version, max_version, .. }) => format!(
                    "{} speaks {key:?} {min_version}-{max_version}, none of which this program speaks",
                    self.address
                ),
                None => format!("{} does not speak {key:?}", self.address),
            }
        })
    }

    /// Sends `request` and waits for its answer.
    ///
    /// # Errors
    /// The connection broke, or the answer cannot be decoded. The connection is then of no more
    /// use, nor is it after the future was dropped early.
    pub(crate) async fn call(&mut self, request: &Request) -> Result<Response> {
        self.call_in(self.version(request.api_key())?, request).await
    }

    async fn call_in(&mut self, version: i16, request: &Request) -> Result<Response> {
        let key = request.api_key();
        let correlation_id = self.send(version, request).await?;
        let frame = self.receive().await.with_context(|| format!("no answer to {key:?}"))?;
        decode(key, version, correlation_id, frame)
    }

    /// Sends `request` and returns the correlation id of its answer.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn send(&mut self, version: i16, request: &Request) -> Result<i32> {
        self.last_correlation_id = self.last_correlation_id.wrapping_add(1);
        let frame = request.encode(version, self.last_correlation_id, CLIENT_ID);
        let sent = self.stream.write_all(&frame).await;
        sent.with_context(|| format!("cannot send to {}", self.address))?;
        Ok(self.last_correlation_id)
    }

    /// Receives the next frame, without its length prefix.
    pub(crate) async fn receive(&mut self) -> Result<Bytes> {
        loop {
            let length = frame::length(&self.received, MAX_FRAME_BYTES)?;
            let whole = length.map(|length| frame::PREFIX_LEN + length as usize);
            if let Some(whole) = whole
                && self.received.len() >= whole
            {
                self.longest_frame = self.longest_frame.max(whole);
                let mut frame = self.received.split_to(whole).freeze();
                frame.advance(frame::PREFIX_LEN);
                return Ok(frame);
            }
            let missing = whole.map_or(self.room_bytes(), |whole| whole - self.received.len());
            self.fill(missing).await?;
        }
    }

    /// Receives at least one byte and at most `limit_bytes`.
    pub(crate) async fn fill(&mut self, limit_bytes: usize) -> Result<()> {
        self.received.reserve(limit_bytes.min(self.room_bytes()));
        let count = self.stream.read_buf(&mut (&mut self.received).limit(limit_bytes)).await;
        let count = count.with_context(|| format!("cannot receive from {}", self.address))?;
        ensure!(count > 0, "{} closed the connection", self.address);
        Ok(())
    }

    /// The most bytes to reserve, whatever a length prefix claims.
    fn room_bytes(&self) -> usize {
        GROW_BYTES.max(self.longest_frame).max(self.received.len())
    }
}

/// Decodes an answer and checks its correlation id.
pub(crate) fn decode(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    frame: Bytes,
) -> Result<Response> {
    let (answered, response) = decode_response(key, version, frame)
        .with_context(|| format!("the answer to {key:?} version {version} cannot be read"))?;
    ensure!(answered == correlation_id, "answer {answered} to request {correlation_id}");
    Ok(response)
}

/// The one partition of a fetch answer.
pub(crate) fn only_partition(response: Response, partition: i32) -> Result<PartitionData> {
    let Response::Fetch(FetchResponse { error_code, responses, .. }) = response else {
        bail!("no answer to Fetch");
    };
    ensure!(error_code.is_none(), "fetch of partition {partition}: {error_code}");
    let data = responses.into_iter().flat_map(|topic| topic.partitions).next();
    let data = data.context("an answer to Fetch without a partition")?;
    let answered = data.partition_index;
    ensure!(answered == partition, "partition {partition} was requested, {answered} answered");
    Ok(data)
}
