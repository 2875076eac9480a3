"""Shared by the tests: the server under test and the records to send.

PEER=kafka puts a real Apache Kafka broker in Penstock's place. A test that Kafka fails is a wrong test.
"""

import os

import pytest

import contents
import kafka_history
import records
from kafka_peer import KafkaPeer
from penstock_peer import BINARY, PenstockPeer
from segment_files import segments

PEER = os.environ.get("PEER", "penstock")


def pytest_report_header() -> str:
    return f"peer: {PEER}{f' ({BINARY})' if PEER == 'penstock' else ''}, {records.COUNT} records"


@pytest.fixture(scope="session")
def peer_class():
    return {"penstock": PenstockPeer, "kafka": KafkaPeer}[PEER]


@pytest.fixture(scope="session")
def penstock_only():
    """For what has no meaning for another server."""
    if PEER != "penstock":
        pytest.skip("only Penstock does this")


@pytest.fixture(scope="session")
def values() -> list[bytes]:
    return records.numbered_lines(records.COUNT)


@pytest.fixture(scope="session")
def start(peer_class, tmp_path_factory):
    """Starts servers on fresh or given directories; those that still run at the end are killed."""
    started = []

    def start(data_dir=None, **options):
        server = peer_class(data_dir or tmp_path_factory.mktemp("data"), **options)
        started.append(server)
        return server

    start.started = started
    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def server(start):
    """The one server that tests share. Each uses topics of its own."""
    return start()


@pytest.fixture(scope="session")
def kafkas(tmp_path_factory, values):
    """A directory of a real Kafka that stopped in good order, never to be changed, and what that Kafka had in it."""
    kafka = KafkaPeer(tmp_path_factory.mktemp("kafka") / "data", settings=kafka_history.BROKER_SETTINGS)
    try:
        kafka_history.write_history(kafka, values)
        held = contents.all_of(kafka.address, kafka_history.GROUPS)
        kafka.stop()
    finally:
        kafka.kill()
    assert len(segments(kafka.data_dir, "small")) >= kafka_history.SEGMENTS
    assert held["read_committed"]["transactional", 0] != held["read_uncommitted"]["transactional", 0]
    assert held["commits"].keys() == {("reads", "gzip", 0), ("reads", "zstd", 0), ("in-transaction", "lz4", 0)}
    return kafka.data_dir, held


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the last output of the servers."""
    report = yield
    start = getattr(item, "funcargs", {}).get("start")
    if report.failed and start is not None:
        report.sections += [(f"output of {server.data_dir}", server.words()) for server in start.started[-3:]]
    return report
