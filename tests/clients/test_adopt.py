"""Penstock serves the data directory of a real Kafka, and the same Kafka takes it back unchanged.

PENSTOCK_ADOPT_SECONDS sets how long Penstock serves. `make adopt` sets ten minutes.
"""

import os
import shutil
import time
from contextlib import closing

import confluent_kafka
import pytest

from clients import confluent_write, create_topic
from contents import admin, all_of, commits, records, topic_configs
from kafka_history import BROKER_SETTINGS, GROUPS
from kafka_peer import KafkaPeer
from processes import wait_until

SERVED_S = float(os.environ.get("PENSTOCK_ADOPT_SECONDS", "20"))
PATIENCE_S = 60

pytestmark = [pytest.mark.usefixtures("penstock_only"), pytest.mark.timeout(600 + 2 * SERVED_S)]


@pytest.fixture(scope="module")
def directory(kafkas, tmp_path_factory):
    return shutil.copytree(kafkas[0], tmp_path_factory.mktemp("adopted") / "data")


@pytest.fixture(scope="module")
def served(kafkas, directory, start):
    """Penstock on that directory, with a retention of its own that would delete what is old, every second."""
    settings = {"log.retention.check.interval.ms": "1000", "log.retention.ms": "86400000", "log.retention.bytes": "1"}
    server = start(directory, settings=settings)
    yield server, kafkas[1]
    server.stop()


def wait_for_retention(server, topic: str) -> None:
    """Returns when a round of the retention check that began after the call has deleted something of a new topic."""
    client = admin(server.address)
    confluent_write(server.address, topic, "none", [b"x" * 1000] * 300)
    place = confluent_kafka.TopicPartition(topic, 0)
    with closing(confluent_kafka.Consumer({"bootstrap.servers": server.address, "group.id": "looks"})) as consumer:
        wait_until(lambda: consumer.get_watermark_offsets(place, timeout=10)[0] > 0, "the retention", PATIENCE_S)
    client.delete_topics([topic])[topic].result(timeout=30)


def test_every_record_is_there_while_retention_runs(served):
    server, held = served
    end = time.monotonic() + SERVED_S
    rounds = 0
    while rounds < 2 or time.monotonic() < end:
        create_topic(server, f"passing-{rounds}", segment_bytes=64 * 1024)
        wait_for_retention(server, f"passing-{rounds}")
        assert records(server.address, "read_uncommitted") == held["read_uncommitted"]
        rounds += 1


def test_topics_show_the_configs_they_had(served):
    server, held = served
    # `internal.segment.bytes` is for Kafka's own tests, and for these: no tool lists it.
    public = {
        topic: {name: value for name, value in configs.items() if not name.startswith("internal.")}
        for topic, configs in held["configs"].items()
    }
    assert topic_configs(server.address) == public


def test_groups_go_on_from_what_they_committed_to_the_kafka(served):
    server, held = served
    assert commits(server.address, GROUPS) == held["commits"]
    settings = {"bootstrap.servers": server.address, "group.id": "reads", "enable.auto.commit": False}
    with closing(confluent_kafka.Consumer({**settings, "auto.offset.reset": "error"})) as consumer:
        consumer.subscribe(["gzip"])
        message = consumer.poll(PATIENCE_S)
        assert message is not None and message.error() is None, message and message.error()
        assert message.offset() == 700


def test_the_same_kafka_takes_the_directory_back(kafkas, directory, start):
    """Runs last: it ends the server above."""
    for server in start.started:
        if server.data_dir == directory:
            server.stop()
    kafka = KafkaPeer(directory, settings=BROKER_SETTINGS)
    try:
        there = all_of(kafka.address, GROUPS)
        kafka.stop()
    finally:
        kafka.kill()
    for what, held in kafkas[1].items():
        assert there[what] == held, what
    assert not list(directory.glob("*-stray"))
