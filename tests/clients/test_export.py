"""`penstock export`: its script gives a real Kafka every record, config and commit of a data directory."""

import shutil
from contextlib import closing, contextmanager
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, ResourceType

import java_tools
from clients import confluent_write, create_topic
from contents import admin, all_of
from kafka_history import BROKER_SETTINGS, GROUPS
from kafka_peer import KafkaPeer
from penstock_peer import BINARY
from processes import run

pytestmark = pytest.mark.usefixtures("penstock_only")


@pytest.fixture(scope="module")
def kafka_bin(tmp_path_factory) -> Path:
    return java_tools.command_scripts(tmp_path_factory.mktemp("kafka") / "bin")


class Script:
    """The output of `penstock export`, for a Kafka with this data directory."""

    def __init__(self, data_dir: Path, kafka_bin: Path, kafkas_dir: Path, *arguments):
        self.path = data_dir.with_suffix(".sh")
        self.text = run([BINARY, "export", "--data-dir", data_dir, *arguments], timeout_s=60).decode()
        self.path.write_text(self.text)
        self._variables = {"KAFKA_BIN": kafka_bin, "KAFKA_DATA": kafkas_dir}

    def step(self, name: str, kafka=None) -> str:
        variables = {**self._variables, "BOOTSTRAP": kafka.address if kafka else "nowhere:1"}
        words = [f"{variable}={value}" for variable, value in variables.items()]
        return run(["env", *words, "sh", self.path, name], timeout_s=120).decode()


@contextmanager
def running(data_dir: Path, **settings):
    """A Kafka that stops in good order."""
    kafka = KafkaPeer(data_dir, settings=settings)
    try:
        yield kafka
        kafka.stop()
    finally:
        kafka.kill()


def commit(server, group: str, *places) -> None:
    with closing(confluent_kafka.Consumer({"bootstrap.servers": server.address, "group.id": group})) as consumer:
        consumer.commit(offsets=[confluent_kafka.TopicPartition(*place) for place in places], asynchronous=False)


def offsets(commits: dict) -> dict:
    """Without the words that came with them: no command of Kafka's sets those."""
    return {place: offset for place, (offset, _) in commits.items()}


def test_a_fresh_kafka_takes_over_what_another_one_had_written(kafkas, start, kafka_bin, values, tmp_path):
    """With five codecs, aborted transactions, compacted and trimmed logs; and a topic of Penstock's own."""
    theirs = tmp_path / "theirs"
    server = start(shutil.copytree(kafkas[0], tmp_path / "ours"), settings={"log.retention.ms": "123456789"})
    create_topic(server, "made-here", partitions=3, segment_bytes=64 * 1024)
    for partition in range(3):
        confluent_write(server.address, "made-here", "zstd", values[:2_000], partition)
    commit(server, "it's \"quoted\", too", ("made-here", 1, 7), ("none", 0, 8))
    groups = [*GROUPS, "it's \"quoted\", too"]
    held = all_of(server.address, groups)
    server.stop()
    # Penstock serves aborted records also to consumers with read_committed; a Kafka does not.
    ours_alone = {place: of for place, of in held["read_committed"].items() if place[0] == "made-here"}
    held["read_committed"] = {**kafkas[1]["read_committed"], **ours_alone}

    script = Script(server.data_dir, kafka_bin, theirs, "--fresh-kafka", "--set", "log.retention.ms=123456789")
    # The broker's own retention would delete half of it at once.
    harsh = {"log.retention.ms": "1000", "log.retention.check.interval.ms": "500", "log.initial.task.delay.ms": "500"}
    with running(theirs, **harsh) as kafka:
        script.step("create", kafka)
    script.step("copy")
    with running(theirs, **harsh) as kafka:
        script.step("finish", kafka)
        there = all_of(kafka.address, groups)
    with running(theirs, **harsh) as kafka:
        assert all_of(kafka.address, groups) == there

    assert there["read_uncommitted"] == held["read_uncommitted"]
    assert there["read_committed"] == held["read_committed"]
    assert offsets(there["commits"]) == offsets(held["commits"])
    for topic, configs in kafkas[1]["configs"].items():
        assert configs.items() <= there["configs"][topic].items()
        assert there["configs"][topic]["retention.ms"] == configs.get("retention.ms", "-1"), topic
    made_here = there["configs"]["made-here"]
    assert (made_here["retention.ms"], made_here["retention.bytes"]) == ("123456789", "-1")
    assert "segment.bytes=65536 is left out" in script.text


def test_a_copy_never_goes_over_other_records(kafkas, start, kafka_bin, tmp_path):
    theirs = tmp_path / "theirs"
    server = start(tmp_path / "ours")
    create_topic(server, "t")
    confluent_write(server.address, "t", "none", [b"ours"])
    server.stop()
    script = Script(server.data_dir, kafka_bin, theirs)
    with running(theirs) as kafka:
        script.step("create", kafka)
        confluent_write(kafka.address, "t", "none", [b"of the Kafka"] * 3)
    with pytest.raises(AssertionError, match="has other records: left alone"):
        script.step("copy")
    with running(theirs) as kafka:
        with pytest.raises(AssertionError, match="its Kafka runs"):
            script.step("copy")


def test_the_same_kafka_learns_what_has_changed_meanwhile(start, kafka_bin, values, tmp_path):
    """Topics made, made again, grown, altered and deleted by Penstock; and those left alone. Each step is done twice."""
    data_dir = tmp_path / "data"
    with running(data_dir, **BROKER_SETTINGS) as kafka:
        for topic in ["stays", "goes", "again", "grows"]:
            create_topic(kafka, topic)
            confluent_write(kafka.address, topic, "none", values[:100])
        commit(kafka, "unchanged", ("stays", 0, 10, "the Kafka's words"))
        commit(kafka, "moved", ("stays", 0, 20))

    server = start(data_dir)
    client = admin(server.address)
    for topic in ["goes", "again"]:
        client.delete_topics([topic])[topic].result(timeout=30)
    client.create_partitions([NewPartitions("grows", 3)])["grows"].result(timeout=30)
    entry = ConfigEntry("retention.ms", "987654321", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, "stays", incremental_configs=[entry])
    client.incremental_alter_configs([resource])[resource].result(timeout=30)
    create_topic(server, "new", partitions=2)
    create_topic(server, "again")
    for topic, partition in [("new", 1), ("again", 0), ("grows", 2), ("stays", 0)]:
        confluent_write(server.address, topic, "lz4", values[:300], partition)
    commit(server, "moved", ("stays", 0, 120), ("new", 1, 5))
    groups = ["unchanged", "moved"]
    held = all_of(server.address, groups)
    server.stop()

    script = Script(data_dir, kafka_bin, data_dir)
    for _ in range(2):
        script.step("aside")
    for _ in range(2):
        with running(data_dir, **BROKER_SETTINGS) as kafka:
            script.step("create", kafka)
        script.step("copy")
    with running(data_dir, **BROKER_SETTINGS) as kafka:
        for _ in range(2):
            script.step("finish", kafka)
        there = all_of(kafka.address, groups)
    assert there["read_uncommitted"] == held["read_uncommitted"]
    assert offsets(there["commits"]) == offsets(held["commits"])
    assert there["commits"]["unchanged", "stays", 0] == (10, "the Kafka's words")
    assert there["configs"]["stays"]["retention.ms"] == "987654321"
    assert not list(data_dir.glob("*-stray"))


def test_a_directory_in_use_or_left_in_disorder_is_not_exported(start):
    server = start()
    create_topic(server, "t")
    export = [BINARY, "export", "--data-dir", server.data_dir]
    with pytest.raises(AssertionError, match="is in use by another server"):
        run(export, timeout_s=60)
    server.kill()
    with pytest.raises(AssertionError, match="did not stop in good order"):
        run(export, timeout_s=60)
