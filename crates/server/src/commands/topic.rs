//! `penstock topic`: creates, lists, describes and deletes topics of a running server.
//!
//! A client like any other: it speaks the protocol over one blocking connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use penstock_wire::messages::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, DeleteTopicsRequest,
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
    MetadataRequest, MetadataRequestTopic, MetadataResponseTopic,
};
use penstock_wire::{ErrorCode, Request, Response, decode_response, frame};

use crate::commands::cli::{TopicAction, TopicArguments, split_pair};

const CLIENT_ID: &str = "penstock-topic";
const TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_MAX_BYTES: u32 = 64 * 1024 * 1024;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// Runs the command.
///
/// # Errors
/// There is no server, or it refuses.
pub(crate) fn run(arguments: TopicArguments) -> anyhow::Result<()> {
    let mut server = Client::connect(&arguments.bootstrap_server)?;
    match arguments.action {
        TopicAction::Create { topic, partitions, config } => {
            create(&mut server, &topic, partitions, &config)
        }
        TopicAction::List => list(&mut server),
        TopicAction::Describe { topic } => describe(&mut server, topic.as_deref()),
        TopicAction::Delete { topic } => delete(&mut server, &topic),
    }
}

fn create(
    server: &mut Client,
    topic: &str,
    partitions: i32,
    config: &[String],
) -> anyhow::Result<()> {
    let mut configs = Vec::new();
    for pair in config {
        let (name, value) = split_pair(pair)?;
        configs.push(CreatableTopicConfig { name: name.into(), value: Some(value.into()) });
    }
    let topics = vec![CreatableTopic {
        name: topic.into(),
        num_partitions: partitions,
        replication_factor: -1,
        configs,
        ..CreatableTopic::default()
    }];
    let request = CreateTopicsRequest { topics, ..CreateTopicsRequest::default() };
    let Response::CreateTopics(response) = server.ask(Request::CreateTopics(request))? else {
        bail!("not an answer to CreateTopics");
    };
    for created in response.topics {
        check(created.error_code, created.error_message.as_deref())?;
        println!("created {} with {} partitions", created.name, created.num_partitions);
    }
    Ok(())
}

fn list(server: &mut Client) -> anyhow::Result<()> {
    for topic in server.topics(None)? {
        println!("{}", topic.name);
    }
    Ok(())
}

fn describe(server: &mut Client, topic: Option<&str>) -> anyhow::Result<()> {
    for topic in server.topics(topic)? {
        check(topic.error_code, Some(&topic.name))?;
        let starts = server.offsets(&topic, EARLIEST)?;
        let ends = server.offsets(&topic, LATEST)?;
        println!("{}: {} partitions", topic.name, topic.partitions.len());
        for (at, partition) in topic.partitions.iter().enumerate() {
            if !partition.error_code.is_none() {
                println!("  partition {} {}", partition.partition_index, partition.error_code);
                continue;
            }
            let (start, end) = (starts[at], ends[at]);
            println!(
                "  partition {} leader {} epoch {} offsets {start}..{end}",
                partition.partition_index, partition.leader_id, partition.leader_epoch
            );
        }
    }
    Ok(())
}

fn delete(server: &mut Client, topic: &str) -> anyhow::Result<()> {
    let request = DeleteTopicsRequest { topic_names: vec![topic.into()], ..Default::default() };
    let Response::DeleteTopics(response) = server.ask(Request::DeleteTopics(request))? else {
        bail!("not an answer to DeleteTopics");
    };
    for deleted in response.responses {
        check(deleted.error_code, deleted.error_message.as_deref())?;
    }
    println!("deleted {topic}");
    Ok(())
}

fn check(error_code: ErrorCode, words: Option<&str>) -> anyhow::Result<()> {
    match words {
        _ if error_code.is_none() => Ok(()),
        Some(words) => bail!("{error_code}: {words}"),
        None => bail!("{error_code}"),
    }
}

/// One connection with one request at a time, each in the newest version that is declared.
struct Client {
    stream: TcpStream,
    correlation_id: i32,
}

impl Client {
    fn connect(address: &str) -> anyhow::Result<Client> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Client { stream, correlation_id: 0 })
    }

    fn ask(&mut self, request: Request) -> anyhow::Result<Response> {
        let api_key = request.api_key();
        let version = api_key.supported().max_version;
        self.correlation_id += 1;
        self.stream.write_all(&request.encode(version, self.correlation_id, CLIENT_ID))?;
        let frame = self.receive().with_context(|| format!("no answer to {}", api_key.name()))?;
        let (correlation_id, response) = decode_response(api_key, version, frame)?;
        if correlation_id != self.correlation_id {
            bail!("an answer to request {correlation_id} instead of {}", self.correlation_id);
        }
        Ok(response)
    }

    fn receive(&mut self) -> anyhow::Result<Bytes> {
        let mut prefix = [0; frame::PREFIX_LEN];
        self.stream.read_exact(&mut prefix)?;
        let length = frame::length(&prefix, ANSWER_MAX_BYTES)?.context("no length")?;
        let mut answer = Vec::new();
        (&mut self.stream).take(u64::from(length)).read_to_end(&mut answer)?;
        if answer.len() < length as usize {
            bail!("the answer ends after {} of {length} bytes", answer.len());
        }
        Ok(answer.into())
    }

    fn topics(&mut self, topic: Option<&str>) -> anyhow::Result<Vec<MetadataResponseTopic>> {
        let topics = topic.map(|name| vec![MetadataRequestTopic { name: name.into() }]);
        let request =
            MetadataRequest { topics, allow_auto_topic_creation: false, ..Default::default() };
        match self.ask(Request::Metadata(request))? {
            Response::Metadata(response) => Ok(response.topics),
            _ => bail!("not an answer to Metadata"),
        }
    }

    /// One offset a partition, in the order of `topic.partitions`.
    fn offsets(
        &mut self,
        topic: &MetadataResponseTopic,
        timestamp: i64,
    ) -> anyhow::Result<Vec<i64>> {
        let partition = |index| ListOffsetsPartition {
            partition_index: index,
            timestamp,
            ..ListOffsetsPartition::default()
        };
        let partitions = topic.partitions.iter().map(|p| partition(p.partition_index)).collect();
        let topics = vec![ListOffsetsTopic { name: topic.name.clone(), partitions }];
        let request = ListOffsetsRequest { topics, ..ListOffsetsRequest::default() };
        let Response::ListOffsets(ListOffsetsResponse { topics, .. }) =
            self.ask(Request::ListOffsets(request))?
        else {
            bail!("not an answer to ListOffsets");
        };
        let found = topics.into_iter().flat_map(|topic| topic.partitions);
        let offsets: Vec<i64> = found.map(|partition| partition.offset).collect();
        if offsets.len() != topic.partitions.len() {
            bail!("{} offsets for {} partitions", offsets.len(), topic.partitions.len());
        }
        Ok(offsets)
    }
}
