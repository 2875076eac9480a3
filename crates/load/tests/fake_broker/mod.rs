//! A broker in this process that keeps its log in memory, and lies as a test needs it.
//!
//! It is blocking, with a thread for each connection. It speaks through `penstock-wire`, as the
//! generator does. The whole-system tests show how real brokers take the generator's bytes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use penstock_batch::{BatchHeader, Batches, assign};
use penstock_wire::messages::*;
use penstock_wire::{ErrorCode, Records, Request, RequestHeader, Response, decode_request};

/// How the broker differs from a good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Flips the last bit of each answer's first batch.
    FlipsABit,
    /// Marks each answer's first batch as compressed.
    Compresses,
    /// Leaves every third batch out.
    LeavesBatchesOut,
    /// Never serves the sixth batch of a partition.
    LosesABatch,
    /// Serves the sixth batch of a partition twice in one answer.
    RepeatsABatch,
    /// Answers fetches with this error.
    Refuses(ErrorCode),
    /// Answers all fetches without a byte.
    HoldsBack,
    /// Answers no fetch.
    KeepsSilent,
    /// Closes the connection after this many fetches.
    HangsUpAfter(u32),
    /// Knows only the lowest version of each API, ApiVersions included.
    IsOld,
}

/// Batches by base offset.
type Log = BTreeMap<i64, Vec<u8>>;

#[derive(Default)]
struct State {
    /// The topic's partitions. None: the topic does not exist.
    logs: Vec<Log>,
    requests: u32,
}

pub(crate) struct FakeBroker {
    pub(crate) address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl FakeBroker {
    /// Listens on a free port until the process ends.
    pub(crate) fn start(manner: Manner) -> FakeBroker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<(Mutex<State>, Condvar)>::default();
        let broker = FakeBroker { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let session = Session { address, manner, shared: Arc::clone(&shared), fetches: 0 };
                std::thread::spawn(move || session.serve(stream.unwrap()));
            }
        });
        broker
    }

    /// Every batch of every partition, in the order of offsets.
    pub(crate) fn batches(&self) -> Vec<Vec<Vec<u8>>> {
        let state = self.shared.0.lock().unwrap();
        state.logs.iter().map(|log| log.values().cloned().collect()).collect()
    }

    /// Returns when `count` requests have come.
    pub(crate) fn wait_for_requests(&self, count: u32) {
        let (state, changed) = &*self.shared;
        let state = state.lock().unwrap();
        drop(changed.wait_while(state, |state| state.requests < count).unwrap());
    }
}

/// One connection.
struct Session {
    address: SocketAddr,
    manner: Manner,
    shared: Arc<(Mutex<State>, Condvar)>,
    fetches: u32,
}

impl Session {
    fn serve(mut self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut prefix = [0; 4];
        while stream.read_exact(&mut prefix).is_ok() {
            let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
            stream.read_exact(&mut frame).unwrap();
            let (header, request) = decode_request(frame.into()).unwrap();
            {
                let (state, changed) = &*self.shared;
                state.lock().unwrap().requests += 1;
                changed.notify_all();
            }
            let Some(response) = self.answer(&header, request) else { continue };
            if self.manner == Manner::HangsUpAfter(self.fetches) {
                return;
            }
            let refused =
                self.manner == Manner::IsOld && matches!(response, Response::ApiVersions(_));
            let version = if refused { 0 } else { header.api_version };
            let answer = response.encode(version, header.correlation_id);
            // The generator may have left, which is no failure.
            let _ = stream.write_all(&answer.into_bytes(|slot| panic!("{slot:?}")));
        }
    }

    fn answer(&mut self, header: &RequestHeader, request: Request) -> Option<Response> {
        let mut state = self.shared.0.lock().unwrap();
        Some(match request {
            Request::ApiVersions(_) => self.versions(header.api_version).into(),
            Request::Metadata(request) => self.metadata(&state, request).into(),
            Request::CreateTopics(request) => {
                let [topic] = &request.topics[..] else { panic!("{request:?}") };
                state.logs.resize_with(topic.num_partitions as usize, Log::new);
                let name = topic.name.clone();
                let result = CreatableTopicResult { name, ..CreatableTopicResult::default() };
                CreateTopicsResponse { topics: vec![result], ..CreateTopicsResponse::default() }
                    .into()
            }
            Request::ListOffsets(request) => list_offsets(&state, request).into(),
            Request::Produce(request) => return produce(&mut state, request),
            Request::Fetch(_) if self.manner == Manner::KeepsSilent => return None,
            Request::Fetch(request) => {
                self.fetches += 1;
                self.fetch(&state, request).into()
            }
            other => panic!("not expected: {other:?}"),
        })
    }

    fn versions(&self, asked: i16) -> ApiVersionsResponse {
        if self.manner != Manner::IsOld {
            return ApiVersionsResponse::ours(ErrorCode::NONE);
        }
        let refused = if asked > 0 { ErrorCode::UNSUPPORTED_VERSION } else { ErrorCode::NONE };
        let mut versions = ApiVersionsResponse::ours(refused);
        versions.api_keys.iter_mut().for_each(|api| api.max_version = api.min_version.max(3));
        versions
    }

    /// All topics have the same partitions.
    fn metadata(&self, state: &State, request: MetadataRequest) -> MetadataResponse {
        let partition = |index| MetadataResponsePartition {
            partition_index: index as i32,
            leader_id: 1,
            ..MetadataResponsePartition::default()
        };
        let missing = state.logs.is_empty();
        let topic = MetadataResponseTopic {
            name: request.topics.unwrap()[0].name.clone(),
            error_code: match missing {
                true => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                false => ErrorCode::NONE,
            },
            partitions: (0..state.logs.len()).map(partition).collect(),
            ..MetadataResponseTopic::default()
        };
        let broker = MetadataResponseBroker {
            node_id: 1,
            host: self.address.ip().to_string().into(),
            port: self.address.port().into(),
            ..MetadataResponseBroker::default()
        };
        let (brokers, topics) = (vec![broker], vec![topic]);
        MetadataResponse { brokers, topics, ..MetadataResponse::default() }
    }

    fn fetch(&self, state: &State, request: FetchRequest) -> FetchResponse {
        let FetchTopic { topic, partitions } = &request.topics[0];
        let partitions = partitions.iter().map(|asked| {
            let log = &state.logs[asked.partition as usize];
            let records = self.records(log, asked.fetch_offset, asked.partition_max_bytes as usize);
            PartitionData {
                partition_index: asked.partition,
                high_watermark: end(log),
                error_code: match self.manner {
                    Manner::Refuses(error) => error,
                    _ => ErrorCode::NONE,
                },
                records: Records::from(Bytes::from(records)),
                ..PartitionData::default()
            }
        });
        let (topic, partitions) = (topic.clone(), partitions.collect());
        let responses = [FetchableTopicResponse { topic, partitions }].into();
        FetchResponse { responses, ..FetchResponse::default() }
    }

    /// Batches from the one that holds `offset`, cut at `max_bytes`, the first one whole.
    fn records(&self, log: &Log, offset: i64, max_bytes: usize) -> Vec<u8> {
        let Some((first, batch)) = log.range(..=offset).next_back() else { return Vec::new() };
        if offset >= end(log) || self.manner == Manner::HoldsBack {
            return Vec::new();
        }
        let at_least = batch.len();
        let mut records = Vec::new();
        let sixth = log.keys().nth(5);
        for (nth, (base, batch)) in log.range(first..).enumerate() {
            let copies = match self.manner {
                Manner::LeavesBatchesOut if nth % 3 == 1 => 0,
                Manner::LosesABatch if sixth == Some(base) => 0,
                Manner::RepeatsABatch if sixth == Some(base) => 2,
                _ => 1,
            };
            (0..copies).for_each(|_| records.extend(batch));
            if records.len() > max_bytes {
                break;
            }
        }
        if self.manner == Manner::FlipsABit {
            records[at_least - 1] ^= 1;
        }
        if self.manner == Manner::Compresses {
            const ZSTD: u8 = 4;
            records[22] |= ZSTD;
        }
        records.truncate(max_bytes.max(at_least));
        records
    }
}

fn end(log: &Log) -> i64 {
    let last = log.last_key_value().map(|(_, batch)| BatchHeader::parse(batch).unwrap());
    last.map_or(0, |header| header.last_offset() + 1)
}

fn list_offsets(state: &State, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let asked = &request.topics[0].partitions[0];
    let partition = ListOffsetsPartitionResponse {
        partition_index: asked.partition_index,
        offset: if asked.timestamp == -2 {
            0
        } else {
            end(&state.logs[asked.partition_index as usize])
        },
        ..ListOffsetsPartitionResponse::default()
    };
    let name = request.topics[0].name.clone();
    let topics = vec![ListOffsetsTopicResponse { name, partitions: vec![partition] }];
    ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }
}

/// Appends, and answers only if acks ask for it.
fn produce(state: &mut State, request: ProduceRequest) -> Option<Response> {
    let data = &request.topic_data[0].partition_data[0];
    let log = &mut state.logs[data.index as usize];
    let base_offset = end(log);
    for batch in Batches::new(data.records.bytes().unwrap()) {
        let mut batch = batch.unwrap().1.to_vec();
        let at = end(log);
        assign(&mut batch, at, 0);
        log.insert(at, batch);
    }
    let partition = PartitionProduceResponse {
        index: data.index,
        base_offset,
        ..PartitionProduceResponse::default()
    };
    let name = request.topic_data[0].name.clone();
    let partition_responses = [partition].into();
    let responses = [TopicProduceResponse { name, partition_responses }].into();
    (request.acks != 0).then(|| ProduceResponse { responses, ..ProduceResponse::default() }.into())
}
