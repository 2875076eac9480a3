"""The contents of a server in a comparable form: digests of all records, the topics' own configs, and commits."""

import hashlib
import struct
import time
from contextlib import closing
from typing import NamedTuple

import confluent_kafka
from confluent_kafka.admin import AdminClient, ConfigResource, ConfigSource

PATIENCE_S = 60


class Records(NamedTuple):
    """The records of one partition, as one isolation level shows them."""

    count: int
    digest: str


def admin(address: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": address, "log_level": 0})


def partitions(address: str) -> list[tuple[str, int]]:
    """The partitions of all topics but a server's internal ones."""
    client = admin(address)
    topics = client.list_topics(timeout=PATIENCE_S).topics.values()
    return sorted((topic.topic, index) for topic in topics for index in topic.partitions if topic.topic[:2] != "__")


def records(address: str, isolation: str) -> dict[tuple[str, int], Records]:
    """Offset, timestamp, key, value and headers of every record of every partition."""
    return {place: read_partition(address, *place, isolation) for place in partitions(address)}


def read_partition(address: str, topic: str, partition: int, isolation: str) -> Records:
    settings = {
        "bootstrap.servers": address,
        "group.id": "compares-contents",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": isolation,
        "check.crcs": True,
        "log_level": 0,
    }
    count, hashed = 0, hashlib.sha256()
    deadline = time.monotonic() + PATIENCE_S
    with closing(confluent_kafka.Consumer(settings)) as consumer:
        consumer.assign([confluent_kafka.TopicPartition(topic, partition, 0)])
        while time.monotonic() < deadline:
            for message in consumer.consume(10_000, timeout=0.1):
                if message.error() is None:
                    count += 1
                    _add(hashed, message)
                elif message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    return Records(count, hashed.hexdigest())
                else:
                    raise AssertionError(f"{topic}-{partition} after {count} records: {message.error()}")
    raise AssertionError(f"{topic}-{partition}: the end did not come after {count} records")


def _add(hashed, message) -> None:
    kind, timestamp = message.timestamp()
    hashed.update(struct.pack(">qiq", message.offset(), kind, timestamp))
    headers = [field for name, value in message.headers() or [] for field in (name.encode(), value)]
    for field in [message.key(), message.value(), *headers]:
        hashed.update(b"-" if field is None else b"%d:%s" % (len(field), field))


def topic_configs(address: str) -> dict[str, dict[str, str]]:
    """What topics set themselves; brokers' defaults are left out."""
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in sorted({t for t, _ in partitions(address)})]
    client = admin(address)
    own = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    described = {of.name: answer.result(timeout=PATIENCE_S) for of, answer in client.describe_configs(resources).items()}
    return {
        topic: {name: entry.value for name, entry in entries.items() if entry.source == own}
        for topic, entries in described.items()
    }


def all_of(address: str, groups: list[str]) -> dict[str, dict]:
    return {
        "read_uncommitted": records(address, "read_uncommitted"),
        "read_committed": records(address, "read_committed"),
        "configs": topic_configs(address),
        "commits": commits(address, groups),
    }


def commits(address: str, groups: list[str]) -> dict[tuple[str, str, int], tuple[int, str]]:
    """Group, topic and partition: offset and metadata, where there is a commit."""
    places = [confluent_kafka.TopicPartition(*place) for place in partitions(address)]
    found = {}
    for group in groups:
        with closing(confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": group})) as consumer:
            for at in consumer.committed(places, timeout=PATIENCE_S):
                if at.offset >= 0:
                    found[group, at.topic, at.partition] = (at.offset, at.metadata)
    return found
