//! A producer that notes its sends and their answers in the journal, and goes on after a fault.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use penstock_batch::{BatchBuilder, NewRecord};
use penstock_wire::messages::InitProducerIdRequest;
use penstock_wire::{ApiKey, ErrorCode, Request, Response, decode_response};

use crate::journal::Journal;
use crate::rounds::Dice;
use crate::stamp::{STAMP_LEN, Stamp, Stamped};
use crate::{Client, ClientError, produce_request};

/// Requests in flight at once: Kafka's `max.in.flight.requests.per.connection`.
const IN_FLIGHT_MAX: usize = 5;
const RECORDS_MAX: usize = 12;
const VALUE_MAX_BYTES: usize = 1500;

/// The newest version without tagged fields.
const VERSION: i16 = 7;

/// One producer of one partition. Its sequence numbers go on from run to run.
#[derive(Debug)]
pub struct Producer {
    topic: String,
    partition: i32,
    acks: i16,
    number: u64,
    is_idempotent: bool,
    /// Producer id and epoch, once the server has assigned them.
    identity: Option<(i64, i16)>,
    next_sequence: u64,
    /// Requests sent and not answered, oldest first.
    unanswered: VecDeque<Sent>,
    journal: Arc<Journal>,
    dice: Dice,
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The connection broke.
    Broken,
    /// The test stopped it, and all its requests were answered.
    Stopped,
    /// The server refused records.
    Refused(ErrorCode),
}

#[derive(Debug)]
struct Sent {
    records: Vec<Stamped>,
    request: Request,
}

impl Producer {
    /// Makes producer `number`, which no other producer of the test has.
    pub fn new(
        journal: &Arc<Journal>,
        (topic, partition): (&str, i32),
        (number, acks, is_idempotent): (u64, i16, bool),
        dice: Dice,
    ) -> Producer {
        Producer {
            topic: topic.to_owned(),
            partition,
            acks,
            number,
            is_idempotent,
            identity: None,
            next_sequence: 0,
            unanswered: VecDeque::new(),
            journal: Arc::clone(journal),
            dice,
        }
    }

    /// Produces until stopped or refused, or until the connection breaks. An idempotent producer
    /// first sends again the requests of the last run that had no answer. Another producer goes on
    /// without them.
    pub fn run(&mut self, server: SocketAddr, stop: &AtomicBool) -> End {
        match self.try_run(server, stop) {
            Ok(end) => end,
            Err(error) => {
                error.assert_is_an_end();
                End::Broken
            }
        }
    }

    fn try_run(&mut self, server: SocketAddr, stop: &AtomicBool) -> Result<End, ClientError> {
        let mut client = Client::connect(server)?;
        if self.is_idempotent && self.identity.is_none() {
            self.identity = Some(ask_for_identity(&mut client)?);
        }
        if !self.is_idempotent {
            self.unanswered.clear();
        }
        for sent in &self.unanswered {
            client.send(&sent.request, VERSION)?;
        }
        // It waits for every answer, also after a refusal, because the server may be writing later
        // requests.
        let (mut refusal, mut refused) = (None, 0);
        loop {
            while refusal.is_none()
                && self.unanswered.len() < IN_FLIGHT_MAX
                && !stop.load(Ordering::Relaxed)
            {
                self.send_next(&mut client)?;
            }
            let Some(oldest) = self.unanswered.get(refused) else {
                return Ok(refusal.map_or(End::Stopped, End::Refused));
            };
            let (_, answer) = decode_response(ApiKey::Produce, VERSION, client.receive()?)
                .map_err(ClientError::Answer)?;
            let Response::Produce(mut answer) = answer else { panic!("not an answer to Produce") };
            let answer = answer.responses.remove(0).partition_responses.remove(0);
            assert_eq!(answer.index, self.partition);
            if !answer.error_code.is_none() {
                refusal.get_or_insert(answer.error_code);
                refused += 1;
                continue;
            }
            self.journal.acknowledged(self.partition, answer.base_offset, &oldest.records);
            self.unanswered.remove(refused);
        }
    }

    fn send_next(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let (records, batch) = self.next_batch();
        self.journal.sends(&records, self.is_idempotent);
        let request = produce_request(&self.topic, self.partition, self.acks, batch);
        self.unanswered.push_back(Sent { records, request });
        let sent = self.unanswered.back().expect("just pushed");
        client.send(&sent.request, VERSION).map(drop)
    }

    fn next_batch(&mut self) -> (Vec<Stamped>, Bytes) {
        let mut builder = BatchBuilder::new();
        if let Some((id, epoch)) = self.identity {
            builder.set_producer(id, epoch, self.next_sequence as i32);
        }
        let mut records = Vec::new();
        for _ in 0..self.dice.within(1..RECORDS_MAX) {
            let (partition, producer) = (self.partition, self.number);
            let stamp = Stamp { partition, producer, sequence: self.next_sequence };
            let len_bytes = self.dice.within(STAMP_LEN..VALUE_MAX_BYTES);
            let value = stamp.value(len_bytes, &mut self.dice);
            records.push(Stamped::read(&value));
            let value = Some(value.as_slice());
            builder.push(NewRecord {
                timestamp_ms: 1_700_000_000_000,
                value,
                ..Default::default()
            });
            self.next_sequence += 1;
        }
        (records, builder.finish().into())
    }
}

fn ask_for_identity(client: &mut Client) -> Result<(i64, i16), ClientError> {
    let request = Request::InitProducerId(InitProducerIdRequest::default());
    let Response::InitProducerId(answer) = client.ask(&request)? else {
        panic!("not an answer to InitProducerId")
    };
    assert!(answer.error_code.is_none(), "{}", answer.error_code);
    Ok((answer.producer_id, answer.producer_epoch))
}
