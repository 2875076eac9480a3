//! Every topic configuration of Apache Kafka 4.4, by name: type, valid values, default, the
//! broker's name for its default, and its meaning here. Data only; [`super`] uses it.
//!
//! One row is Penstock's own, and begins with its name. Two rows differ from Kafka. Segments may be
//! as small as 1 KiB here; Kafka's least is 1 MiB. `internal.segment.bytes`, which is for Kafka's
//! own tests, has the same limits.

use super::rule::Rule;
use super::{Synonym, TopicConfig};

const FOREVER: &str = "9223372036854775807";

const fn row(
    name: &'static str,
    rule: Rule,
    default: &'static str,
    synonym: Option<Synonym>,
    what: &'static str,
) -> TopicConfig {
    TopicConfig { name, rule, default, synonym, what }
}

/// A broker's name whose default Kafka describes.
const fn with(name: &'static str) -> Option<Synonym> {
    Some(Synonym { name, has_default: true })
}

/// A broker's name without a described default: in Kafka its default is that of another name, in
/// hours.
const fn unset(name: &'static str) -> Option<Synonym> {
    Some(Synonym { name, has_default: false })
}

const fn int(least: i32) -> Rule {
    Rule::Int(least..=i32::MAX)
}

const fn long(least: i64) -> Rule {
    Rule::Long(least..=i64::MAX)
}

/// By name.
#[rustfmt::skip]
pub(super) static TOPIC_CONFIGS: [TopicConfig; 39] = [
    row("cleanup.policy", Rule::Words(&["compact", "delete"]), "delete", with("log.cleanup.policy"),
        "delete: old segments are deleted. Empty: all stay. Compaction is not supported."),
    row("compression.gzip.level", Rule::IntOrDefault(1..=9), "-1", with("compression.gzip.level"),
        "Makes no difference: batches stay as the producer made them."),
    row("compression.lz4.level", Rule::Int(1..=17), "9", with("compression.lz4.level"),
        "Makes no difference: batches stay as the producer made them."),
    row("compression.type", Rule::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), "producer", with("compression.type"),
        "producer: batches stay as the producer made them."),
    row("compression.zstd.level", Rule::Int(-131_072..=22), "3", with("compression.zstd.level"),
        "Makes no difference: batches stay as the producer made them."),
    row("delete.retention.ms", long(0), "86400000", with("log.cleaner.delete.retention.ms"),
        "Makes no difference without compaction."),
    row("errors.deadletterqueue.group.enable", Rule::Boolean, "false", None,
        "Makes no difference without share groups."),
    row("file.delete.delay.ms", long(0), "60000", with("log.segment.delete.delay.ms"),
        "Makes no difference: files are unlinked at once, and readers that hold them go on."),
    row("flush.messages", long(1), FOREVER, with("log.flush.interval.messages"),
        "The write that completes so many records is synced before it is acknowledged."),
    row("flush.ms", long(0), FOREVER, unset("log.flush.interval.ms"),
        "Records are synced at most this long after they came, to the second."),
    row("follower.replication.throttled.replicas", Rule::Replicas, "", None,
        "Makes no difference without followers."),
    row("index.interval.bytes", int(0), "4096", with("log.index.interval.bytes"),
        "An index entry is written when more than this was appended since the last one."),
    row("internal.segment.bytes", int(1024), "", None,
        "Kafka's own, for tests: overrides segment.bytes."),
    row("leader.replication.throttled.replicas", Rule::Replicas, "", None,
        "Makes no difference without followers."),
    row("local.retention.bytes", long(-2), "-2", with("log.local.retention.bytes"),
        "Makes no difference without remote storage."),
    row("local.retention.ms", long(-2), "-2", with("log.local.retention.ms"),
        "Makes no difference without remote storage."),
    row("max.compaction.lag.ms", long(1), FOREVER, with("log.cleaner.max.compaction.lag.ms"),
        "Makes no difference without compaction."),
    row("max.decompressed.message.bytes", Rule::Int(1..=2_147_483_639), "2147483639", with("max.decompressed.message.bytes"),
        "Kept for a Kafka that gets the directory."),
    row("max.message.bytes", int(0), "1048588", with("message.max.bytes"),
        "The largest batch a producer may send; never more than half the largest frame."),
    row("message.timestamp.after.max.ms", long(0), "3600000", with("log.message.timestamp.after.max.ms"),
        "How far a record's time may lie ahead of the server's."),
    row("message.timestamp.before.max.ms", long(0), FOREVER, with("log.message.timestamp.before.max.ms"),
        "How far a record's time may lie behind the server's."),
    row("message.timestamp.type", Rule::OneOf(&["CreateTime", "LogAppendTime"]), "CreateTime", with("log.message.timestamp.type"),
        "The clock of record timestamps: the producer's or the server's."),
    row("min.cleanable.dirty.ratio", Rule::Double(0.0..=1.0), "0.5", with("log.cleaner.min.cleanable.ratio"),
        "Makes no difference without compaction."),
    row("min.compaction.lag.ms", long(0), "0", with("log.cleaner.min.compaction.lag.ms"),
        "Makes no difference without compaction."),
    row("min.insync.replicas", int(1), "1", with("min.insync.replicas"),
        "Counts for no more than there are replicas, as in Kafka: one."),
    row("penstock.verify.compressed", Rule::Boolean, "false", with("penstock.verify.compressed"),
        "Compressed batches are decompressed and their records checked before they are appended."),
    row("preallocate", Rule::Boolean, "false", with("log.preallocate"),
        "Makes no difference: files grow with what is appended."),
    row("remote.copy.lag.bytes", long(-1), "-1", with("log.remote.copy.lag.bytes"),
        "Makes no difference without remote storage."),
    row("remote.copy.lag.ms", long(-1), "0", with("log.remote.copy.lag.ms"),
        "Makes no difference without remote storage."),
    row("remote.log.copy.disable", Rule::Boolean, "false", None,
        "Makes no difference without remote storage."),
    row("remote.log.delete.on.disable", Rule::Boolean, "false", None,
        "Makes no difference without remote storage."),
    row("remote.storage.enable", Rule::Boolean, "false", None,
        "There is no remote storage."),
    row("retention.bytes", long(i64::MIN), "-1", with("log.retention.bytes"),
        "The oldest segments are deleted while a partition is at least this large without them; below 0: never."),
    row("retention.ms", long(-1), "604800000", unset("log.retention.ms"),
        "Segments whose youngest record is older than this are deleted; -1: never."),
    row("segment.bytes", int(1024), "1073741824", with("log.segment.bytes"),
        "A segment rolls before it grows beyond this."),
    row("segment.index.bytes", int(4), "10485760", with("log.index.size.max.bytes"),
        "A segment rolls when one of its indexes has grown to this."),
    row("segment.jitter.ms", long(0), "0", unset("log.roll.jitter.ms"),
        "Makes no difference: segments roll when they are due."),
    row("segment.ms", long(1), "604800000", unset("log.roll.ms"),
        "A segment rolls this long after its first record."),
    row("unclean.leader.election.enable", Rule::Boolean, "false", with("unclean.leader.election.enable"),
        "Makes no difference without followers."),
];
