//! Looks the topic up before a run: its partitions, their leaders, and their first and last
//! offsets.
//!
//! Called by `main` (`Topic::find`) and by each worker (`Leaders`). Clusters of several brokers
//! work, because every request about a partition goes to its leader.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use penstock_wire::messages::*;
use penstock_wire::{ApiKey, ErrorCode, Request, Response, Str};
use tokio::time::timeout;

use crate::cli::TargetArgs;
use crate::client::Connection;

/// Time between two looks at a topic that is not ready.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The timestamps that ask for the ends of a log.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// A topic whose partitions all have a leader.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) name: Str,
    /// Sorted by index.
    pub(crate) partitions: Vec<Partition>,
}

/// A partition at the time of the look-up.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    pub(crate) index: i32,
    /// `HOST:PORT`
    pub(crate) leader: String,
    /// First offset.
    pub(crate) start: i64,
    /// One past the last offset.
    pub(crate) end: i64,
    /// The offset at which readers stop even if the log goes on, or `i64::MAX`.
    pub(crate) limit: i64,
}

/// The result of one look at the cluster.
enum Look {
    Ready(Topic),
    Missing,
    NotYet(String),
}

impl Topic {
    /// Looks the topic up, and waits while it is being created or moved. `create`: the partitions
    /// to create it with if it does not exist.
    ///
    /// # Errors
    /// The topic does not exist, is refused, or is not ready within `args.timeout`.
    pub(crate) async fn find(args: &TargetArgs, create: Option<i32>) -> Result<Topic> {
        let mut waits_for = String::from("no answer");
        match timeout(args.timeout, wait_for(args, create, &mut waits_for)).await {
            Ok(found) => found,
            Err(_) => bail!(
                "{}, topic {}: not ready within {:?}: {waits_for}",
                args.bootstrap_server,
                args.topic,
                args.timeout
            ),
        }
    }

    /// The address of each leader, once.
    pub(crate) fn leaders(&self) -> Vec<&str> {
        let mut leaders: Vec<_> = self.partitions.iter().map(|p| p.leader.as_str()).collect();
        leaders.sort_unstable();
        leaders.dedup();
        leaders
    }
}

async fn wait_for(
    args: &TargetArgs,
    mut create: Option<i32>,
    waits_for: &mut String,
) -> Result<Topic> {
    let may_be_missing = create.is_some();
    let name = Str::from(args.topic.as_str());
    let mut connection = Connection::open(&args.bootstrap_server).await?;
    loop {
        match look_up(&mut connection, &name).await? {
            Look::Ready(topic) => return Ok(topic),
            Look::NotYet(reason) => *waits_for = reason,
            Look::Missing => {
                ensure!(may_be_missing, "topic {name} does not exist");
                if let Some(partitions) = create.take() {
                    create_topic(&mut connection, &name, partitions).await?;
                }
                // A new topic may not be known everywhere at once.
                *waits_for = "it was created and is not known yet".into();
            }
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn look_up(connection: &mut Connection, name: &Str) -> Result<Look> {
    let request = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { name: name.clone() }]),
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    let Response::Metadata(cluster) = connection.call(&request.into()).await? else {
        bail!("no answer to Metadata");
    };
    let found = cluster.topics.into_iter().find(|topic| topic.name == *name);
    let Some(found) = found else { return Ok(Look::Missing) };
    match found.error_code {
        ErrorCode::NONE => {}
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => return Ok(Look::Missing),
        ErrorCode::LEADER_NOT_AVAILABLE => return Ok(Look::NotYet("no leader yet".into())),
        error => bail!("topic {name}: {error}"),
    }
    let address: HashMap<i32, String> =
        cluster.brokers.iter().map(|b| (b.node_id, format!("{}:{}", b.host, b.port))).collect();
    let mut partitions = Vec::new();
    let mut leaders = HashMap::new();
    for MetadataResponsePartition { partition_index: index, leader_id, .. } in found.partitions {
        let Some(leader) = address.get(&leader_id) else {
            return Ok(Look::NotYet(format!("partition {index} has no leader")));
        };
        if !leaders.contains_key(leader) {
            leaders.insert(leader.clone(), Connection::open(leader).await?);
        }
        let connection = leaders.get_mut(leader).expect("inserted above");
        match bounds(connection, name, index).await? {
            Ok((start, end)) => {
                partitions.push(Partition {
                    index,
                    leader: leader.clone(),
                    start,
                    end,
                    limit: i64::MAX,
                });
            }
            Err(error) => return Ok(Look::NotYet(format!("partition {index}: {error}"))),
        }
    }
    if partitions.is_empty() {
        return Ok(Look::NotYet("it has no partitions".into()));
    }
    partitions.sort_by_key(|partition| partition.index);
    Ok(Look::Ready(Topic { name: name.clone(), partitions }))
}

/// Start and end of a partition, or the error of its leader.
pub(crate) async fn bounds(
    leader: &mut Connection,
    topic: &Str,
    index: i32,
) -> Result<Result<(i64, i64), ErrorCode>> {
    let mut found = [0; 2];
    for (offset, timestamp) in found.iter_mut().zip([EARLIEST, LATEST]) {
        let partition = ListOffsetsPartition {
            partition_index: index,
            timestamp,
            ..ListOffsetsPartition::default()
        };
        let topics = vec![ListOffsetsTopic { name: topic.clone(), partitions: vec![partition] }];
        let request = ListOffsetsRequest { topics, ..ListOffsetsRequest::default() };
        let Response::ListOffsets(answer) = leader.call(&request.into()).await? else {
            bail!("no answer to ListOffsets");
        };
        let partition = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
        let partition = partition.context("an answer to ListOffsets without a partition")?;
        if !partition.error_code.is_none() {
            return Ok(Err(partition.error_code));
        }
        *offset = partition.offset;
    }
    Ok(Ok((found[0], found[1])))
}

async fn create_topic(connection: &mut Connection, name: &Str, partitions: i32) -> Result<()> {
    // Since version 4 a request can leave the replicas to the broker's default.
    let default_factor = if connection.version(ApiKey::CreateTopics)? >= 4 { -1 } else { 1 };
    let topic = CreatableTopic {
        name: name.clone(),
        num_partitions: partitions,
        replication_factor: default_factor,
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() };
    let Response::CreateTopics(answer) = connection.call(&Request::from(request)).await? else {
        bail!("no answer to CreateTopics");
    };
    let result = answer.topics.into_iter().next();
    let result = result.context("an answer to CreateTopics without a topic")?;
    match result.error_code {
        ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS => Ok(()),
        error => {
            let reason = result.error_message.map_or(String::new(), |text| format!(": {text}"));
            bail!("cannot create topic {name}: {error}{reason}")
        }
    }
}

/// The partitions of connection number `connection`, as indices into all of them.
///
/// With at least as many connections as partitions every partition has a reader. With fewer each
/// connection goes round several partitions.
pub(crate) fn assigned(connection: u32, connections: u32, partitions: usize) -> Vec<usize> {
    let (connection, connections) = (connection as usize, connections as usize);
    match connections >= partitions {
        true => vec![connection % partitions],
        false => (connection..partitions).step_by(connections).collect(),
    }
}

/// The number of the connection among the readers of partition `nth`, from 0, and their count.
pub(crate) fn share(
    connection: u32,
    connections: u32,
    nth: usize,
    partitions: usize,
) -> (u32, u32) {
    let (all, nth) = (partitions as u32, nth as u32);
    match connections >= all {
        true => (connection / all, (connections - nth).div_ceil(all)),
        false => (0, 1),
    }
}

/// One worker's connections to the leaders of its partitions, one for each leader.
#[derive(Debug)]
pub(crate) struct Leaders {
    connections: Vec<Connection>,
    /// The index of the connection for each of the worker's partitions.
    of_partition: Vec<usize>,
}

impl Leaders {
    /// Connects to the leaders of the `assigned` partitions.
    ///
    /// # Errors
    /// One of the leaders is not reachable.
    pub(crate) async fn connect(topic: &Topic, assigned: &[usize]) -> Result<Leaders> {
        let mut addresses: Vec<&str> = Vec::new();
        let mut leaders = Leaders { connections: Vec::new(), of_partition: Vec::new() };
        for nth in assigned {
            let leader = topic.partitions[*nth].leader.as_str();
            let known = addresses.iter().position(|address| *address == leader);
            if known.is_none() {
                leaders.connections.push(Connection::open(leader).await?);
                addresses.push(leader);
            }
            leaders.of_partition.push(known.unwrap_or(addresses.len() - 1));
        }
        Ok(leaders)
    }

    /// The connection to the leader of the worker's partition number `nth`.
    pub(crate) fn of(&mut self, nth: usize) -> &mut Connection {
        &mut self.connections[self.of_partition[nth]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_has_a_partition_and_every_partition_readers_numbered_without_a_hole() {
        for (connections, partitions) in [(1, 1), (1, 7), (3, 7), (7, 7), (16, 3), (5, 4)] {
            let mut readers = vec![Vec::new(); partitions];
            for connection in 0..connections {
                let assigned = assigned(connection, connections, partitions);
                assert!(!assigned.is_empty());
                for nth in assigned {
                    readers[nth].push(share(connection, connections, nth, partitions));
                }
            }
            for shares in readers {
                let count = shares.len() as u32;
                let expected: Vec<_> = (0..count).map(|reader| (reader, count)).collect();
                assert_eq!(shares, expected, "{connections} connections, {partitions} partitions");
            }
        }
    }
}
