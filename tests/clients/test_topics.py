"""Apache Kafka's administration and producing tools work with Penstock, and offsets are found by time."""

import re
import time

import confluent_kafka
import pytest

import java_tools
from clients import confluent_write, create_topic
from processes import run


def test_kafka_topics_creates_lists_describes_and_deletes(server):
    create = ["--create", "--topic", "rivers", "--partitions", 3, "--replication-factor", 1]
    assert "Created topic rivers." in java_tools.kafka_topics(server.address, *create, "--config", "retention.ms=3600000")

    assert "rivers" in java_tools.kafka_topics(server.address, "--list").split()

    described = java_tools.kafka_topics(server.address, "--describe", "--topic", "rivers")
    # Topic ids came with Metadata 10, which Penstock does not serve yet.
    assert re.search(r"Topic: rivers\s+(TopicId: \S+\s+)?PartitionCount: 3\s+ReplicationFactor: 1", described), described
    assert "retention.ms=3600000" in described
    for partition in range(3):
        assert re.search(rf"Partition: {partition}\s+Leader: \d+\s+Replicas: \d+\s+Isr: \d+", described), described

    java_tools.kafka_topics(server.address, "--alter", "--topic", "rivers", "--partitions", 5)
    assert "PartitionCount: 5" in java_tools.kafka_topics(server.address, "--describe", "--topic", "rivers")

    java_tools.kafka_topics(server.address, "--delete", "--topic", "rivers")
    assert "rivers" not in java_tools.kafka_topics(server.address, "--list").split()


def test_a_topic_of_that_name_is_not_created_twice(server):
    create_topic(server, "once")
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        create_topic(server, "once")
    assert refused.value.args[0].code() == confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS


def test_kcat_finds_offsets_by_time(server, values):
    """A moment between two writes leads to the first record of the second."""
    create_topic(server, "dated")
    half = len(values) // 2
    confluent_write(server.address, "dated", "gzip", values[:half])
    between_ms = _a_moment_from_now_ms()
    confluent_write(server.address, "dated", "gzip", values[half:])

    def offset_at(timestamp_ms: int) -> int:
        printed = run(["kcat", "-Q", "-b", server.address, "-t", f"dated:0:{timestamp_ms}"], timeout_s=60).decode()
        return int(re.search(r"offset (-?\d+)", printed)[1])

    earliest, latest = -2, -1
    assert offset_at(earliest) == 0
    assert offset_at(latest) == len(values)
    assert offset_at(between_ms) == half


def test_kafka_producer_perf_test_runs_to_its_end(server):
    create_topic(server, "pushed")
    assert "50000 records sent" in java_tools.producer_perf(server.address, "pushed", 50_000, 200)


def _a_moment_from_now_ms() -> int:
    """A millisecond after every record sent so far and before any sent later."""
    moment = time.time_ns() // 1_000_000 + 1
    while time.time_ns() // 1_000_000 <= moment:
        pass
    return moment
