//! A blocking client: one request at a time, in the newest version or in one that the caller names.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use penstock_wire::messages::{
    CreatableTopic, CreatableTopicConfig, CreatePartitionsRequest, CreatePartitionsTopic,
    CreateTopicsRequest, DeleteTopicsRequest, FetchPartition, FetchRequest, FetchTopic,
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic, PartitionData,
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData,
};
use penstock_wire::{DecodeError, ErrorCode, Records, Request, Response, decode_response, frame};

const ANSWER_MAX_BYTES: u32 = i32::MAX as u32;
const TIMEOUT: Duration = Duration::from_secs(60);

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    correlation_id: i32,
    client_id: String,
}

/// The failure of a request.
#[derive(Debug)]
pub enum ClientError {
    /// The connection failed or was closed.
    Io(std::io::Error),
    /// The answer cannot be decoded, which is always a fault of the server.
    Answer(DecodeError),
}

impl From<std::io::Error> for ClientError {
    fn from(error: std::io::Error) -> Self {
        ClientError::Io(error)
    }
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientError::Io(error) => write!(f, "connection: {error}"),
            ClientError::Answer(error) => write!(f, "answer: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl ClientError {
    /// Panics unless the connection failed or was closed. An answer that cannot be decoded is the
    /// server's fault, and so is no answer within the time-out.
    pub fn assert_is_an_end(&self) {
        let ClientError::Io(error) = self else { panic!("{self}") };
        let is_timeout = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(!is_timeout, "neither data nor an error nor a closed connection for {TIMEOUT:?}");
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub fn connect(address: SocketAddr) -> Result<Client, ClientError> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Client::on(stream))
    }

    /// Connects with a receive buffer of about this size, so that most of a large answer stays with
    /// the server until the client reads it.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub fn connect_narrow(address: SocketAddr, buffer_bytes: usize) -> Result<Client, ClientError> {
        use rustix::net::{AddressFamily, SocketType, sockopt};
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)
            .map_err(std::io::Error::from)?;
        // Set before connecting, when the window is agreed upon.
        sockopt::set_socket_recv_buffer_size(&socket, buffer_bytes)
            .map_err(std::io::Error::from)?;
        rustix::net::connect(&socket, &address).map_err(std::io::Error::from)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Client::on(stream))
    }

    fn on(stream: TcpStream) -> Client {
        Client { stream, correlation_id: 0, client_id: "test".to_owned() }
    }

    /// The same client under another client id.
    pub fn named(self, client_id: &str) -> Client {
        Client { client_id: client_id.to_owned(), ..self }
    }

    /// Ends the connection with a reset, even if bytes are on their way.
    ///
    /// # Errors
    /// The socket option cannot be set.
    pub fn reset(self) -> Result<(), ClientError> {
        let linger = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&self.stream, linger)
            .map_err(std::io::Error::from)?;
        Ok(())
    }

    /// The connection itself, for bytes outside the protocol.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends a request without waiting for its answer.
    ///
    /// # Errors
    /// The connection failed.
    pub fn send(&mut self, request: &Request, version: i16) -> Result<i32, ClientError> {
        self.correlation_id += 1;
        self.stream.write_all(&request.encode(version, self.correlation_id, &self.client_id))?;
        Ok(self.correlation_id)
    }

    /// Receives a whole answer frame without its prefix.
    ///
    /// # Errors
    /// The connection failed or was closed.
    pub fn receive(&mut self) -> Result<Bytes, ClientError> {
        let mut prefix = [0; frame::PREFIX_LEN];
        self.stream.read_exact(&mut prefix)?;
        let length = frame::length(&prefix, ANSWER_MAX_BYTES).map_err(std::io::Error::other)?;
        let mut answer = vec![0; length.unwrap_or(0) as usize];
        self.stream.read_exact(&mut answer)?;
        Ok(answer.into())
    }

    /// Sends a request in a given version and returns its answer.
    ///
    /// # Errors
    /// The connection failed, or the answer cannot be read.
    pub fn ask_in(&mut self, version: i16, request: &Request) -> Result<Response, ClientError> {
        let sent = self.send(request, version)?;
        let frame = self.receive()?;
        let decoded = decode_response(request.api_key(), version, frame);
        let (correlation_id, response) = decoded.map_err(ClientError::Answer)?;
        assert_eq!(correlation_id, sent, "answers come in order");
        Ok(response)
    }

    /// Sends a request in the newest version and returns its answer.
    ///
    /// # Errors
    /// As [`Client::ask_in`].
    pub fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.ask_in(request.api_key().supported().max_version, request)
    }

    /// Creates a topic, which must not exist.
    ///
    /// # Errors
    /// As [`Client::ask_in`].
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<(), ClientError> {
        let error_code = self.ask_for_topic(name, partitions, configs)?;
        assert!(error_code.is_none(), "{error_code:?}");
        Ok(())
    }

    /// Creates a topic and returns its part of the answer.
    ///
    /// # Errors
    /// As [`Client::ask_in`].
    pub fn ask_for_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<ErrorCode, ClientError> {
        let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into()),
        };
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            configs: configs.iter().map(config).collect(),
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let Response::CreateTopics(response) = self.ask(&Request::CreateTopics(request))? else {
            panic!("not an answer to CreateTopics");
        };
        Ok(response.topics[0].error_code)
    }

    /// Deletes a topic and returns the answer.
    ///
    /// # Errors
    /// As [`Client::ask_in`].
    pub fn ask_for_deletion(&mut self, name: &str) -> Result<ErrorCode, ClientError> {
        let request = DeleteTopicsRequest { topic_names: vec![name.into()], ..Default::default() };
        let Response::DeleteTopics(response) = self.ask(&Request::DeleteTopics(request))? else {
            panic!("not an answer to DeleteTopics");
        };
        Ok(response.responses[0].error_code)
    }

    /// Raises the partitions of a topic to `count` and returns its part of the answer.
    ///
    /// # Errors
    /// As [`Client::ask_in`].
    pub fn ask_for_partitions(&mut self, name: &str, count: i32) -> Result<ErrorCode, ClientError> {
        let topic = CreatePartitionsTopic { name: name.into(), count, ..Default::default() };
        let request = CreatePartitionsRequest { topics: vec![topic], ..Default::default() };
        let Response::CreatePartitions(response) = self.ask(&Request::CreatePartitions(request))?
        else {
            panic!("not an answer to CreatePartitions");
        };
        Ok(response.results[0].error_code)
    }

    /// Produces batches to one partition and returns its part of the answer.
    ///
    /// # Errors
    /// As [`Client::ask_in`].
    pub fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        acks: i16,
        batches: Bytes,
    ) -> Result<PartitionProduceResponse, ClientError> {
        let request = produce_request(topic, partition, acks, batches);
        let Response::Produce(mut response) = self.ask(&request)? else {
            panic!("not an answer to Produce");
        };
        Ok(response.responses.remove(0).partition_responses.remove(0))
    }

    /// Fetches from one partition and returns its part of the answer.
    ///
    /// # Errors
    /// As [`Client::ask_in`].
    pub fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<PartitionData, ClientError> {
        let request = Request::Fetch(fetch_request(topic, partition, offset));
        let Response::Fetch(mut response) = self.ask(&request)? else {
            panic!("not an answer to Fetch");
        };
        Ok(response.responses.remove(0).partitions.remove(0))
    }

    /// The offset for a timestamp, or for -1 (latest), -2 (earliest), -3 (largest timestamp).
    ///
    /// # Errors
    /// As [`Client::ask_in`].
    pub fn offset_of(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> Result<i64, ClientError> {
        let partition =
            ListOffsetsPartition { partition_index: partition, timestamp, ..Default::default() };
        let topic = ListOffsetsTopic { name: topic.into(), partitions: vec![partition] };
        let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
        let Response::ListOffsets(response) = self.ask(&Request::ListOffsets(request))? else {
            panic!("not an answer to ListOffsets");
        };
        let found = &response.topics[0].partitions[0];
        assert!(found.error_code.is_none(), "{:?}", found.error_code);
        Ok(found.offset)
    }
}

/// A produce request for one partition.
pub fn produce_request(topic: &str, partition: i32, acks: i16, batches: Bytes) -> Request {
    let partition_data =
        [PartitionProduceData { index: partition, records: Records::from(batches) }].into();
    let topic_data = [TopicProduceData { name: topic.into(), partition_data }].into();
    Request::Produce(ProduceRequest { acks, timeout_ms: 30_000, topic_data, ..Default::default() })
}

/// A fetch of one partition with a consumer's usual limits, which does not wait.
pub fn fetch_request(topic: &str, partition: i32, offset: i64) -> FetchRequest {
    let partition = FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 50 << 20,
        topics: [FetchTopic { topic: topic.into(), partitions: [partition].into() }].into(),
        ..FetchRequest::default()
    }
}
