"""What the tests share: the server they talk to and the records they send.

PEER=kafka puts a real Apache Kafka broker in Penstock's place: a test that it fails is a wrong test.
"""

import os

import pytest

import records
from kafka_peer import KafkaPeer
from penstock_peer import BINARY, PenstockPeer

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what the servers at hand said last."""
    report = yield
    start = getattr(item, "funcargs", {}).get("start")
    if report.failed and start is not None:
        report.sections += [(f"what {server.data_dir} said", server.words()) for server in start.started[-3:]]
    return report
