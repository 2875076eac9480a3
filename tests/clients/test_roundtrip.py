"""Each client reads what each other client wrote, through every codec, byte for byte."""

import pytest

from clients import CODECS, READERS, WRITERS, aiokafka_write, confluent_write, create_topic
from records import assert_same
from segment_files import batches, log_bytes

PARTITIONS = 3


@pytest.fixture(scope="module")
def written(server, values):
    """Topics by writer and codec, each written by the first test that reads it."""
    outcomes = {}

    def write(writer: str, codec: str) -> str:
        topic = f"{writer}-{codec}"
        if topic not in outcomes:
            outcomes[topic] = None
            try:
                create_topic(server, topic)
                WRITERS[writer](server.address, topic, codec, values)
            except Exception as failure:
                outcomes[topic] = failure
        if outcomes[topic] is not None:
            raise AssertionError(f"{writer} could not write {codec}") from outcomes[topic]
        return topic

    return write


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_one_client_wrote_every_client_reads_back(server, written, values, writer, codec, reader):
    topic = written(writer, codec)
    read = READERS[reader](server.address, topic, 0, 0, len(values))
    assert_same(read, values, f"{reader} reading what {writer} wrote with {codec}")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("writer", WRITERS)
def test_batches_are_stored_in_the_codec_they_were_sent_in(server, written, values, writer, codec):
    """An old librdkafka sends plain batches when it dislikes the versions that the server advertises."""
    topic = written(writer, codec)
    stored = batches(log_bytes(server.data_dir, topic))
    assert sum(batch.count for batch in stored) == len(values)
    # A batch of a few records is sent plain where the codec would make it longer.
    assert {batch.codec for batch in stored if batch.count > 10} == {codec}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_may_begin_in_the_middle_of_a_batch(server, written, values, reader):
    topic = written("confluent", "lz4")
    begin = len(values) * 2 // 3 + 1
    read = READERS[reader](server.address, topic, 0, begin, len(values) - begin)
    assert_same(read, values[begin:], f"{reader} from offset {begin}")


@pytest.fixture(scope="module")
def spread(server, values):
    """A topic of several partitions, and what each of them holds."""
    shares = [values[i::PARTITIONS] for i in range(PARTITIONS)]
    create_topic(server, "spread", partitions=PARTITIONS)
    for partition, share in enumerate(shares):
        confluent_write(server.address, "spread", "zstd", share, partition)
    return shares


@pytest.mark.parametrize("reader", READERS)
def test_every_partition_holds_its_own_records(server, spread, reader):
    read = [
        value
        for partition, share in enumerate(spread)
        for value in READERS[reader](server.address, "spread", partition, 0, len(share))
    ]
    assert_same(read, sum(spread, []), f"{reader} reading {PARTITIONS} partitions in order")


@pytest.mark.parametrize("write", [confluent_write, aiokafka_write], ids=["confluent", "aiokafka"])
def test_an_idempotent_producer_is_served(server, values, write, request):
    topic = f"idempotent-{request.node.callspec.id}"
    create_topic(server, topic)
    write(server.address, topic, "lz4", values, idempotent=True)
    assert all(batch.producer_id >= 0 for batch in batches(log_bytes(server.data_dir, topic)))
    read = READERS["kcat"](server.address, topic, 0, 0, len(values))
    assert_same(read, values, "kcat reading what an idempotent producer wrote")
