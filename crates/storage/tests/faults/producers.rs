//! Producers that remember their batches and the answers, outside of the log.
//!
//! A producer has one batch under way. It sends it again, unchanged, until it is answered.

use bytes::Bytes;
use penstock_batch::{BatchBuilder, NewRecord, records};
use penstock_storage::Offset;

use crate::random::Random;

/// A batch by the order in which it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub u32);

/// A batch that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub bytes: Bytes,
    pub first_ms: i64,
    pub records: i32,
    pub is_idempotent: bool,
    /// How often the log may have appended it.
    pub sends: usize,
    pub acked: Option<Offset>,
}

#[derive(Clone, Debug)]
pub struct Producer {
    /// `None`: not idempotent.
    id: Option<i64>,
    epoch: i16,
    next_sequence: i32,
    /// The batch that was sent and not answered.
    pub waiting: Option<Number>,
}

/// All producers and all their batches.
#[derive(Clone, Debug)]
pub struct Producers {
    pub sent: Vec<Sent>,
    pub all: Vec<Producer>,
}

impl Producers {
    /// Half of them are idempotent.
    pub fn new(count: usize) -> Producers {
        let producer = |n: usize| Producer {
            id: n.is_multiple_of(2).then_some(1000 + n as i64),
            epoch: 0,
            next_sequence: 0,
            waiting: None,
        };
        Producers { sent: Vec::new(), all: (0..count).map(producer).collect() }
    }

    /// The batch that a producer sends now: the one that was not answered, else a new one.
    pub fn send(&mut self, who: usize, now_ms: i64, random: &mut Random) -> Number {
        let number = match self.all[who].waiting {
            Some(number) => number,
            None => self.make(who, now_ms, random),
        };
        self.all[who].waiting = Some(number);
        self.sent[number.0 as usize].sends += 1;
        number
    }

    pub fn acknowledge(&mut self, who: usize, number: Number, at: Offset) {
        let sent = &mut self.sent[number.0 as usize];
        assert!(sent.acked.is_none_or(|before| before == at), "{number:?} moved to {at}");
        sent.acked = Some(at);
        let producer = &mut self.all[who];
        producer.waiting = None;
        producer.next_sequence += sent.records;
    }

    /// The log has forgotten batches, so idempotent producers begin again in a new epoch.
    pub fn begin_again(&mut self) {
        for producer in &mut self.all {
            producer.epoch += 1;
            producer.next_sequence = 0;
            producer.waiting = None;
        }
    }

    pub fn sent(&self, number: Number) -> &Sent {
        &self.sent[number.0 as usize]
    }

    /// Which batch this is. It must equal one that was sent, byte for byte, except for the offset
    /// and epoch that the log has written into its first 16 bytes.
    pub fn recognise(&self, batch: &[u8]) -> Number {
        let first = records(batch).expect("it is not compressed").next().expect("it has a record");
        let value = first.expect("the record is sound").value.expect("it has a value");
        let number = Number(u32::from_be_bytes(value[..4].try_into().expect("four bytes")));
        let sent = self.sent.get(number.0 as usize).expect("a producer sent it");
        assert!(batch[16..] == sent.bytes[16..], "{number:?} is not what was sent");
        assert_eq!(batch.len(), sent.bytes.len());
        number
    }

    fn make(&mut self, who: usize, now_ms: i64, random: &mut Random) -> Number {
        let number = Number(self.sent.len() as u32);
        let producer = &self.all[who];
        let mut builder = BatchBuilder::new();
        if let Some(id) = producer.id {
            builder.set_producer(id, producer.epoch, producer.next_sequence);
        }
        let records = 1 + random.below(3) as i32;
        let len = if random.one_in(8) { 6000 } else { 300 };
        for n in 0..records {
            let fill_len = random.below(len);
            let value = [&number.0.to_be_bytes()[..], &random.bytes(fill_len)].concat();
            let timestamp_ms = now_ms + i64::from(n);
            builder.push(NewRecord { timestamp_ms, value: Some(&value), ..NewRecord::default() });
        }
        let (bytes, is_idempotent) = (builder.finish().into(), producer.id.is_some());
        let first_ms = now_ms;
        self.sent.push(Sent { bytes, first_ms, records, is_idempotent, sends: 0, acked: None });
        number
    }
}
