"""Gives a real Kafka a history: one of everything that a data directory may contain when Penstock takes it over."""

import time
from contextlib import closing

import confluent_kafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from clients import CODECS, confluent_write
from processes import wait_until
from segment_files import segments

DAY_MS = 24 * 60 * 60 * 1000
SMALL_SEGMENT_BYTES = 16 * 1024
SEGMENTS = 39
KEYS = 20
GROUPS = ["reads", "in-transaction", "aborted", "deleted"]

# Of server.properties alone: nothing in the data directory tells. Snapshots of the metadata every few seconds.
BROKER_SETTINGS = {
    "log.retention.ms": "-1",
    "log.cleaner.backoff.ms": "100",
    "metadata.log.max.record.bytes.between.snapshots": "3000",
}


def write_history(kafka, values: list[bytes]) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.address, "log_level": 0})

    def create(topic: str, **config) -> None:
        config = {name.replace("_", "."): str(value) for name, value in config.items()}
        admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(timeout=30)

    for codec in CODECS:
        create(codec, internal_segment_bytes=256 * 1024)
        confluent_write(kafka.address, codec, codec, values)
    create("idempotent")
    confluent_write(kafka.address, "idempotent", "lz4", values[:1_000], idempotent=True)

    create("transactional")
    for end in ["commit", "abort", "commit"]:
        _in_transaction(kafka.address, "transactional", values[:100], end)

    # 30 days old, in a topic whose retention is its own and in one whose retention only server.properties says.
    create("kept", retention_ms=-1)
    create("old")
    for topic in ["kept", "old"]:
        _write(kafka.address, topic, [(None, value) for value in values[:500]], _now_ms() - 30 * DAY_MS)

    create("altered", retention_ms=5, retention_bytes=7)
    _alter(admin, "altered", AlterConfigOpType.SET, "retention.ms", str(400 * DAY_MS))
    _alter(admin, "altered", AlterConfigOpType.DELETE, "retention.bytes", None)
    _write(kafka.address, "altered", [(b"k", value) for value in values[:10]], _now_ms() - 30 * DAY_MS)

    create("again", retention_ms=1)
    _write(kafka.address, "again", [(None, b"of a topic that was deleted")] * 10)
    admin.delete_topics(["again"])["again"].result(timeout=30)
    wait_until(lambda: "again" not in admin.list_topics(timeout=10).topics, "the deletion")
    create("again")
    _write(kafka.address, "again", [(None, b"of the topic that was made again")])

    create("trimmed")
    _write(kafka.address, "trimmed", [(None, value) for value in values[:100]])
    admin.delete_records([TopicPartition("trimmed", 0, 30)])[TopicPartition("trimmed", 0)].result()

    create("small", internal_segment_bytes=SMALL_SEGMENT_BYTES)
    while len(segments(kafka.data_dir, "small")) < SEGMENTS:
        _write(kafka.address, "small", [(None, value) for value in values[:100]])
    create("compacted", cleanup_policy="compact", internal_segment_bytes=SMALL_SEGMENT_BYTES, min_cleanable_dirty_ratio=0.01)
    _write_compacted(kafka, values)
    _write_commits(kafka.address, admin)


def _write_compacted(kafka, values: list[bytes]) -> None:
    """Every third key ends with a tombstone; the cleaner has been there when this returns."""
    before = len(values[:2_000])
    for start in range(0, before, 100):
        keyed = [(b"key-%d" % (at % KEYS), value) for at, value in enumerate(values[start : start + 100])]
        _write(kafka.address, "compacted", keyed)
    _write(kafka.address, "compacted", [(b"key-%d" % key, None) for key in range(0, KEYS, 3)])
    _write(kafka.address, "compacted", [(b"last", b"in the active segment")])

    def cleaned() -> bool:
        try:
            sizes = [log.stat().st_size for log in segments(kafka.data_dir, "compacted")]
        except FileNotFoundError:  # The cleaner is replacing what was listed.
            return False
        return sum(sizes) < before * 20

    wait_until(cleaned, "the cleaner", within_s=90)


def _write_commits(address: str, admin: AdminClient) -> None:
    for group, offset in [("reads", 700), ("deleted", 5)]:
        with closing(confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": group})) as consumer:
            places = [TopicPartition("gzip", 0, offset, f"{group} was here"), TopicPartition("zstd", 0, offset + 1)]
            consumer.commit(offsets=places, asynchronous=False)
    for group, end in [("in-transaction", "commit"), ("aborted", "abort")]:
        with closing(confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": group})) as consumer:
            metadata = consumer.consumer_group_metadata()
            commit = ([TopicPartition("lz4", 0, 900, end)], metadata)
            _in_transaction(address, "transactional", [b"with a commit"], end, commit)
    admin.delete_consumer_groups(["deleted"])["deleted"].result()


def _in_transaction(address: str, topic: str, values: list[bytes], end: str, commit=None) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": address, "transactional.id": f"to-{topic}"})
    producer.init_transactions(60)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, headers={"end": end})
    producer.flush(60)
    if commit is not None:
        producer.send_offsets_to_transaction(*commit)
    if end == "commit":
        producer.commit_transaction(60)
    else:
        producer.abort_transaction(60)


def _write(address: str, topic: str, records: list[tuple], timestamp_ms: int = 0) -> None:
    """A timestamp of 0 is now."""
    producer = confluent_kafka.Producer({"bootstrap.servers": address, "acks": "all", "batch.size": 4096, "linger.ms": 5})
    for key, value in records:
        producer.produce(topic, value, key, timestamp=timestamp_ms)
    assert producer.flush(60) == 0


def _alter(admin: AdminClient, topic: str, operation: AlterConfigOpType, name: str, value: str | None) -> None:
    entry = ConfigEntry(name, value, incremental_operation=operation)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for answer in admin.incremental_alter_configs([resource]).values():
        answer.result(timeout=30)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
