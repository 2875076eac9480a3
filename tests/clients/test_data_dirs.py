"""One data directory for both: Penstock serves Apache Kafka's files, and Kafka's tool accepts Penstock's files."""

import itertools
import shutil

import pytest

from clients import CODECS, READERS, WRITERS, confluent_write, create_topic, topic_names
from kafka_peer import KafkaPeer
from records import assert_same
from segment_files import segments, tear
from sound_files import assert_kafka_accepts

# Another client for each codec, so that the directory has batches of all clients.
WRITER_OF = dict(zip(CODECS, itertools.cycle(WRITERS)))


def write_every_codec(server, values) -> None:
    for codec, writer in WRITER_OF.items():
        create_topic(server, codec)
        WRITERS[writer](server.address, codec, codec, values)


def assert_several_segments(data_dir) -> None:
    counts = {codec: len(segments(data_dir, codec)) for codec in CODECS}
    assert min(counts.values()) > 1, f"too few records to fill several segments: {counts}"


@pytest.fixture(scope="module")
def written_by_kafka(tmp_path_factory, values):
    """Directories of a real broker: one that was stopped, one that was killed, one whose last write was torn."""
    root = tmp_path_factory.mktemp("kafka")
    directories = {ending: root / ending for ending in ("stopped", "killed", "torn")}

    broker = KafkaPeer(root / "living")
    try:
        write_every_codec(broker, values)
        broker.kill()
        shutil.copytree(broker.data_dir, directories["killed"])
        shutil.copytree(broker.data_dir, directories["torn"])
    finally:
        broker.kill()
    for codec in CODECS:
        tear(segments(directories["torn"], codec)[-1])

    broker = KafkaPeer(root / "living")
    try:
        broker.stop()
    finally:
        broker.kill()
    broker.data_dir.rename(directories["stopped"])
    assert (directories["stopped"] / ".kafka_cleanshutdown").exists()

    for data_dir in directories.values():
        assert_several_segments(data_dir)
    return directories


@pytest.fixture(scope="module", params=["stopped", "killed", "torn"])
def server_of_kafkas_files(request, written_by_kafka, start):
    server = start(written_by_kafka[request.param])
    yield server
    server.stop()


@pytest.mark.parametrize("reader", READERS)
def test_a_directory_that_kafka_wrote_is_served_as_it_is(server_of_kafkas_files, values, reader):
    for codec in CODECS:
        read = READERS[reader](server_of_kafkas_files.address, codec, 0, 0, len(values))
        assert_same(read, values, f"{reader} reading {codec}")


def test_kafkas_own_metadata_log_is_nobodys_topic(server_of_kafkas_files):
    topics = topic_names(server_of_kafkas_files.address)
    assert set(CODECS) <= topics and "__cluster_metadata" not in topics


def test_writing_goes_on_where_kafka_stopped(server_of_kafkas_files, values):
    address = server_of_kafkas_files.address
    for codec in CODECS:
        confluent_write(address, codec, codec, values[:1_000])
        read = READERS["kcat"](address, codec, 0, len(values) - 1, 1_001)
        assert_same(read, values[-1:] + values[:1_000], f"kcat reading over the seam of {codec}")


@pytest.fixture(scope="module")
def written_here(start, values):
    """A directory of the server under test, stopped in good order."""
    server = start()
    write_every_codec(server, values)
    server.stop()
    assert_several_segments(server.data_dir)
    return server.data_dir


def test_kafka_dump_log_accepts_every_segment_and_index(written_here):
    assert_kafka_accepts([written_here / f"{codec}-0" for codec in CODECS])


def test_kafka_dump_log_accepts_what_was_appended_to_a_directory_of_kafka(written_by_kafka, start, values, tmp_path):
    for ending, data_dir in written_by_kafka.items():
        copy = shutil.copytree(data_dir, tmp_path / ending)
        server = start(copy)
        for codec in CODECS:
            confluent_write(server.address, codec, codec, values)
        server.stop()
        assert_kafka_accepts([copy / f"{codec}-0" for codec in CODECS])


def test_what_was_written_before_a_restart_is_read_after_it(written_here, start, values):
    server = start(written_here)
    for codec in CODECS:
        read = READERS["confluent"](server.address, codec, 0, 0, len(values))
        assert_same(read, values, f"confluent reading {codec} after a restart")
    server.stop()
