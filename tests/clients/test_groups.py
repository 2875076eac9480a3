"""Consumer groups: members share the partitions, and a group reads no record twice.

A member that leaves, or makes room for another, commits its offsets first. So a group of well-behaved members reads
every record once.
"""

import asyncio
import time
from contextlib import ExitStack, closing

import aiokafka
import confluent_kafka
import pytest

import java_tools
from clients import confluent_write, create_topic
from processes import run
from records import assert_same

PARTITIONS = 4
SHARED_RECORDS = 4_000
PATIENCE_S = 40


@pytest.fixture(scope="module")
def shared_values(values) -> list[bytes]:
    return values[:SHARED_RECORDS]


def write_over_partitions(server, topic: str, values: list[bytes]) -> None:
    """The k-th value to partition k modulo their number."""
    for partition in range(PARTITIONS):
        confluent_write(server.address, topic, "none", values[partition::PARTITIONS], partition=partition)


def assert_each_once(read: list[bytes], written: list[bytes], what: str) -> None:
    assert_same(sorted(read), sorted(written), what)


# --- going on where the group was ------------------------------------------------------------------


def kcat_group_read(server, group: str, topic: str, *limit) -> list[bytes]:
    settings = ["-X", "auto.offset.reset=earliest", "-X", "check.crcs=true", "-q", *limit]
    return run(["kcat", "-b", server.address, *settings, "-G", group, topic], timeout_s=PATIENCE_S).splitlines()


def test_kcat_goes_on_behind_the_committed_offsets_after_a_kill(start, shared_values):
    server = start()
    create_topic(server, "resumed", PARTITIONS)
    write_over_partitions(server, "resumed", shared_values)
    before = kcat_group_read(server, "resumes", "resumed", "-c", SHARED_RECORDS // 3)
    server.kill()

    server = start(server.data_dir)
    after = kcat_group_read(server, "resumes", "resumed", "-e")
    assert len(before) == SHARED_RECORDS // 3
    assert_each_once(before + after, shared_values, "kcat, before and after the kill")
    assert kcat_group_read(server, "resumes", "resumed", "-e") == []
    server.stop()


def test_the_console_consumer_goes_on_where_its_group_was(server, shared_values):
    create_topic(server, "printed", PARTITIONS)
    write_over_partitions(server, "printed", shared_values)
    first = java_tools.console_group_consumer(server.address, "printed", "prints", 1_000)
    second = java_tools.console_group_consumer(server.address, "printed", "prints", SHARED_RECORDS - 1_000)
    assert len(first) == 1_000
    assert_each_once(first + second, shared_values, "two runs of the console consumer")


def test_kafka_consumer_perf_test_reads_every_record(server, values):
    create_topic(server, "pulled", PARTITIONS)
    write_over_partitions(server, "pulled", values)
    printed = java_tools.consumer_perf(server.address, "pulled", len(values))
    header, row = printed.strip().splitlines()[-2:]
    measured = dict(zip(header.split(", "), row.split(", ")))
    assert measured.get("data.consumed.in.nMsg") == str(len(values)), printed


# --- sharing ---------------------------------------------------------------------------------------


def confluent_member(server, group: str, topic: str, **settings) -> confluent_kafka.Consumer:
    member = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server.address,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 6_000,
            "heartbeat.interval.ms": 300,
            "check.crcs": True,
            **settings,
        }
    )
    member.subscribe([topic])
    return member


def poll_until(members, done, read: list[bytes]) -> None:
    """Adds what the members get to `read`."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"{len(read)} read; assigned: {[m.assignment() for m in members]}"
        for member in members:
            for message in member.consume(100, timeout=0.02):
                assert message.error() is None, message.error()
                read.append(message.value())


def shares(members) -> list[int]:
    return [len(member.assignment()) for member in members]


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_two_confluent_members_read_each_record_once(server, shared_values, strategy):
    """One reads alone, a second comes while it reads, one leaves."""
    topic, third = f"shared-{strategy}", SHARED_RECORDS // 3
    create_topic(server, topic, PARTITIONS)
    write_over_partitions(server, topic, shared_values[:third])
    settings = {"partition.assignment.strategy": strategy}
    read: list[bytes] = []
    with ExitStack() as members:
        stays = members.enter_context(closing(confluent_member(server, topic, topic, **settings)))
        poll_until([stays], lambda: len(read) >= 100, read)
        assert shares([stays]) == [PARTITIONS]

        with closing(confluent_member(server, topic, topic, **settings)) as goes:
            poll_until([stays, goes], lambda: shares([stays, goes]) == [PARTITIONS // 2] * 2, read)
            write_over_partitions(server, topic, shared_values[third : 2 * third])
            poll_until([stays, goes], lambda: len(read) >= 2 * third, read)

        poll_until([stays], lambda: shares([stays]) == [PARTITIONS], read)
        write_over_partitions(server, topic, shared_values[2 * third :])
        poll_until([stays], lambda: len(read) >= SHARED_RECORDS, read)
    assert_each_once(read, shared_values, f"two members, {strategy}")


def test_two_aiokafka_members_read_each_record_once(server, shared_values):
    create_topic(server, "shared-aio", PARTITIONS)

    async def members_read() -> list[bytes]:
        read: list[bytes] = []
        members = [
            aiokafka.AIOKafkaConsumer(
                "shared-aio",
                bootstrap_servers=server.address,
                group_id="shared-aio",
                auto_offset_reset="earliest",
                heartbeat_interval_ms=300,
            )
            for _ in range(2)
        ]
        try:
            for member in members:
                await member.start()
            while shares(members) != [PARTITIONS // 2] * 2:
                await members[0].getmany(timeout_ms=50)
            write_over_partitions(server, "shared-aio", shared_values)
            while len(read) < SHARED_RECORDS:
                for member in members:
                    for messages in (await member.getmany(timeout_ms=50)).values():
                        read += [message.value for message in messages]
        finally:
            for member in members:
                await member.stop()
        return read

    read = asyncio.run(asyncio.wait_for(members_read(), PATIENCE_S))
    assert_each_once(read, shared_values, "two members of aiokafka")


# --- what members may ask for ----------------------------------------------------------------------


def test_a_static_member_comes_back_to_its_partitions_at_once(server, shared_values):
    """It does not say that it leaves, and its session is longer than the test: taken for another, it would wait too long."""
    create_topic(server, "kept", PARTITIONS)
    write_over_partitions(server, "kept", shared_values)
    static = {"group.instance.id": "one", "session.timeout.ms": 2_000 * PATIENCE_S, "max.poll.interval.ms": 300_000}
    read: list[bytes] = []
    with closing(confluent_member(server, "keeps", "kept", **static)) as member:
        poll_until([member], lambda: len(read) >= SHARED_RECORDS, read)
        old_id = member.memberid()
    with closing(confluent_member(server, "keeps", "kept", **static)) as member:
        poll_until([member], lambda: shares([member]) == [PARTITIONS], read)
        assert member.memberid() != old_id
    assert_each_once(read, shared_values, "a member and its return")


def test_words_committed_with_an_offset_come_back_unless_too_long(server):
    create_topic(server, "noted", PARTITIONS)
    settings = {"bootstrap.servers": server.address, "group.id": "notes"}
    place = confluent_kafka.TopicPartition
    with closing(confluent_kafka.Consumer(settings)) as consumer:
        consumer.commit(offsets=[place("noted", 1, 17, "seventeen")], asynchronous=False)
        with pytest.raises(confluent_kafka.KafkaException) as refused:
            consumer.commit(offsets=[place("noted", 2, 18, "x" * 4097)], asynchronous=False)
        assert refused.value.args[0].code() == confluent_kafka.KafkaError.OFFSET_METADATA_TOO_LARGE
        one, two = consumer.committed([place("noted", 1), place("noted", 2)], timeout=PATIENCE_S)
    assert (one.offset, one.metadata) == (17, "seventeen")
    assert two.offset == confluent_kafka.OFFSET_INVALID
