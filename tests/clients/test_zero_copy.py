"""The bytes of an answer are the bytes of the file, and on the chain path only the kernel touches them."""

import pytest

from clients import create_topic, confluent_write
from raw_fetch import fetch_log
from segment_files import log_bytes
from system_calls import traced

TOPIC = "reservoir"
SEGMENT_BYTES = 4 * 1024 * 1024
ROUNDS = 8


def fill(server, values) -> int:
    """Writes some 18 MB of uncompressed records in segments of 4 MiB. Returns the log's end."""
    chosen = values[:20_000] * ROUNDS
    create_topic(server, TOPIC, segment_bytes=SEGMENT_BYTES)
    confluent_write(server.address, TOPIC, "none", chosen)
    return len(chosen)


def test_fetched_bytes_are_the_bytes_of_the_segment_files(server, values):
    end = fill(server, values)
    fetched, _ = fetch_log(server.address, TOPIC, end)
    assert fetched == log_bytes(server.data_dir, TOPIC)


@pytest.fixture(scope="module")
def chain_only(penstock_only, start, values):
    server = start(fetch_path="chain")
    yield server, fill(server, values)
    server.stop()


class TestOnTheChainPath:
    def test_metrics_show_every_record_byte_to_have_gone_by_splice(self, chain_only):
        server, end = chain_only
        before = server.sent_bytes()
        fetched, carried_bytes = fetch_log(server.address, TOPIC, end)
        sent = {path: after - before[path] for path, after in server.sent_bytes().items()}
        assert fetched == log_bytes(server.data_dir, TOPIC)
        assert sent == {"chain": carried_bytes, "sendfile": 0, "copy": 0}

    def test_no_system_call_brings_record_bytes_into_user_space(self, chain_only, tmp_path):
        """strace does not see what io_uring does: for that, the counters above and the ring's own tests speak."""
        server, end = chain_only
        with traced(server.pid, tmp_path / "calls") as calls:
            _, carried_bytes = fetch_log(server.address, TOPIC, end)
        read = calls.bytes_by_call(("read", "pread64", "readv", "preadv", "preadv2", "recvfrom", "recvmsg"))
        sent = calls.bytes_by_call(("write", "pwrite64", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile"))
        # Look-ups read a page of index and some batch heads; answers have heads and frames have requests.
        allowed_bytes = carried_bytes // 20
        assert sum(read.values()) < allowed_bytes, f"{read} while {carried_bytes} record bytes were sent"
        assert sum(sent.values()) < allowed_bytes, f"{sent} while {carried_bytes} record bytes were sent"
        assert not calls.mapped("*.log"), calls.mapped("*.log")
