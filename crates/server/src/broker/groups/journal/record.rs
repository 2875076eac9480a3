//! The records of the offsets journal, in both directions. Pure.

use penstock_coordinator::{Change, Commit, Committed};
use penstock_wire::Str;

const COMMIT: u8 = 1;
const FORGET: u8 = 2;
pub(super) const KINDS: [u8; 2] = [COMMIT, FORGET];
pub(super) const PREFIX_BYTES: usize = 8;

/// Encodes a whole record. Strings come from frames or from this file, so their length fits 16
/// bits.
pub(in crate::broker::groups) fn encode(change: &Change) -> Vec<u8> {
    match change {
        Change::Commit(commit) => encode_commit(commit),
        Change::Forget { topic } => framed(|record| {
            record.push(FORGET);
            put_str(record, topic);
        }),
    }
}

pub(super) fn encode_commit(commit: &Commit) -> Vec<u8> {
    framed(|record| {
        record.push(COMMIT);
        put_str(record, &commit.group);
        record.extend((commit.entries.len() as u32).to_be_bytes());
        for (topic, partition, at) in &commit.entries {
            put_str(record, topic);
            record.extend(partition.to_be_bytes());
            record.extend(at.offset.to_be_bytes());
            record.extend(at.leader_epoch.to_be_bytes());
            put_str(record, &at.metadata);
        }
    })
}

fn framed(put_body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut record = vec![0; PREFIX_BYTES];
    put_body(&mut record);
    let body = &record[PREFIX_BYTES..];
    let (len_bytes, crc) = (body.len() as u32, crc_fast::crc32_iscsi(body));
    record[..4].copy_from_slice(&len_bytes.to_be_bytes());
    record[4..PREFIX_BYTES].copy_from_slice(&crc.to_be_bytes());
    record
}

fn put_str(record: &mut Vec<u8>, text: &str) {
    let len_bytes = u16::try_from(text.len()).expect("the protocol's strings are below 32 KiB");
    record.extend(len_bytes.to_be_bytes());
    record.extend(text.as_bytes());
}

/// `None`: no body of a known kind.
pub(super) fn decode(body: &[u8]) -> Option<Change> {
    let mut rest = body;
    let [kind] = take(&mut rest)?;
    let change = match kind {
        COMMIT => Change::Commit(decode_commit(&mut rest)?),
        FORGET => Change::Forget { topic: take_str(&mut rest)? },
        _ => return None,
    };
    rest.is_empty().then_some(change)
}

fn decode_commit(rest: &mut &[u8]) -> Option<Commit> {
    let group = take_str(rest)?;
    let count = u32::from_be_bytes(take(rest)?);
    let mut entries = Vec::new();
    for _ in 0..count {
        let topic = take_str(rest)?;
        let partition = i32::from_be_bytes(take(rest)?);
        let offset = i64::from_be_bytes(take(rest)?);
        let leader_epoch = i32::from_be_bytes(take(rest)?);
        let metadata = take_str(rest)?;
        entries.push((topic, partition, Committed { offset, leader_epoch, metadata }));
    }
    Some(Commit { group, entries })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

fn take_str(rest: &mut &[u8]) -> Option<Str> {
    let len_bytes = u16::from_be_bytes(take(rest)?);
    let (text, left) = rest.split_at_checked(usize::from(len_bytes))?;
    *rest = left;
    Some(std::str::from_utf8(text).ok()?.into())
}
