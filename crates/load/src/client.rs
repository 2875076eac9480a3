//! One connection to one server: sends a request, gets its answer. One at a time.
//!
//! Used by the workloads and by `topic`. The buffer that answers are received into is used again
//! as soon as the answer before is dropped. Must never believe a length before its bytes came.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use penstock_wire::frame;
use penstock_wire::messages::{ApiVersion, ApiVersionsRequest, FetchResponse, PartitionData};
use penstock_wire::{ApiKey, ErrorCode, Request, Response, decode_response, negotiate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What servers know us by.
const CLIENT_ID: &str = "penstock-load";
/// Largest answer we take: Kafka's own limit of a fetch and some.
pub(crate) const MAX_FRAME_BYTES: u32 = 256 << 20;
/// Room made at first; beyond it the buffer grows with what has come.
const GROW_BYTES: usize = 64 << 10;

/// A connection that knows which versions its server speaks.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// Bytes received and not yet taken.
    pub(crate) received: BytesMut,
    /// The longest frame that has really come: so much room may be made before the next comes.
    longest_frame: usize,
    address: String,
    versions: Vec<ApiVersion>,
    last_correlation_id: i32,
}

impl Connection {
    /// Connects to `HOST:PORT` and asks which versions there are.
    ///
    /// # Errors
    /// Not reachable, or not a server of Kafka's protocol.
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
        connection.ask_versions().await.with_context(|| format!("{address} is no Kafka server"))?;
        Ok(connection)
    }

    async fn ask_versions(&mut self) -> Result<()> {
        let request = Request::from(ApiVersionsRequest {
            client_software_name: CLIENT_ID.into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        });
        // A server that is older than version 3 says so in version 0; all know that one.
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
        bail!("it refuses ApiVersions in version 0")
    }

    /// The highest version of `key` that both sides speak.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn version(&self, key: ApiKey) -> Result<i16> {
        let theirs = self.versions.iter().find(|api| api.api_key == key as i16);
        theirs.and_then(|api| negotiate(key, api.min_version, api.max_version)).with_context(|| {
            match theirs {
                Some(ApiVersion { min_version, max_version, .. }) => format!(
                    "{} speaks {key:?} {min_version}-{max_version}, we do not",
                    self.address
                ),
                None => format!("{} does not speak {key:?}", self.address),
            }
        })
    }

    /// Sends `request` and waits for its answer.
    ///
    /// # Errors
    /// The connection broke, or the answer is not one. Afterwards, and when the future is dropped
    /// before it is ready, the connection is of no more use.
    pub(crate) async fn call(&mut self, request: &Request) -> Result<Response> {
        self.call_in(self.version(request.api_key())?, request).await
    }

    async fn call_in(&mut self, version: i16, request: &Request) -> Result<Response> {
        let key = request.api_key();
        let correlation_id = self.send(version, request).await?;
        let frame = self.receive().await.with_context(|| format!("no answer to {key:?}"))?;
        decode(key, version, correlation_id, frame)
    }

    /// Sends `request` and says by which number its answer will be known.
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

    /// The next frame, without its length.
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

    /// How much room may be made whatever a length prefix claims.
    fn room_bytes(&self) -> usize {
        GROW_BYTES.max(self.longest_frame).max(self.received.len())
    }
}

/// Decodes an answer and checks that it is the one that was waited for.
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

/// The one partition that was asked for.
pub(crate) fn only_partition(response: Response, partition: i32) -> Result<PartitionData> {
    let Response::Fetch(FetchResponse { error_code, responses, .. }) = response else {
        bail!("no answer to Fetch");
    };
    ensure!(error_code.is_none(), "fetch of partition {partition}: {error_code}");
    let data = responses.into_iter().flat_map(|topic| topic.partitions).next();
    let data = data.context("an answer to Fetch without a partition")?;
    let answered = data.partition_index;
    ensure!(answered == partition, "partition {partition} asked, {answered} answered");
    Ok(data)
}
