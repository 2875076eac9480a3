"""A small consumer that keeps the raw bytes of an answer: Fetch version 4 over one socket.

Real clients decode the bytes. Only raw bytes show whether the bytes on the wire are those of the file.
"""

import socket
import struct

from segment_files import batches

FETCH, VERSION = 1, 4
WHOLE_SEGMENT_BYTES = 50 * 1024 * 1024


def fetch_log(address: str, topic: str, end_offset: int) -> tuple[bytes, int]:
    """Partition 0 from offset 0 to the end: its batches, and how many record bytes the answers carried.

    The two differ when an answer ends inside a batch, which then comes once more.
    """
    host, port = address.split(":")
    log, carried_bytes, offset = bytearray(), 0, 0
    with socket.create_connection((host, int(port)), timeout=30) as server:
        while offset < end_offset:
            server.sendall(_request(topic, offset))
            records = _records(_answer(server))
            whole = batches(records)
            assert whole, f"no whole batch in {len(records)} bytes at offset {offset} of {end_offset}"
            carried_bytes += len(records)
            log += records[: whole[-1].position + whole[-1].len_bytes]
            offset = whole[-1].base_offset + whole[-1].count
    return bytes(log), carried_bytes


def _request(topic: str, offset: int) -> bytes:
    client, name = b"raw-fetch", topic.encode()
    head = struct.pack(">hhi h", FETCH, VERSION, 1, len(client)) + client
    replica, max_wait_ms, min_bytes, read_uncommitted = -1, 500, 1, 0
    body = struct.pack(">iiiib", replica, max_wait_ms, min_bytes, WHOLE_SEGMENT_BYTES, read_uncommitted)
    body += struct.pack(">ih", 1, len(name)) + name
    body += struct.pack(">iiqi", 1, 0, offset, WHOLE_SEGMENT_BYTES)
    return struct.pack(">i", len(head + body)) + head + body


def _answer(server: socket.socket) -> bytes:
    (length,) = struct.unpack(">i", _exactly(server, 4))
    return _exactly(server, length)


def _exactly(server: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        more = server.recv(min(length - len(received), 1 << 20))
        assert more, f"the connection ended after {len(received)} of {length} bytes"
        received += more
    return bytes(received)


def _records(answer: bytes) -> bytes:
    """Of correlation, throttle, topics, name, partitions, index, error, watermarks, aborted, size, records: the last."""
    _correlation, _throttle_ms, topics, name_len = struct.unpack_from(">iiih", answer)
    assert topics == 1
    place = 14 + name_len
    partitions, index, error, _high_watermark, _last_stable, aborted = struct.unpack_from(">iihqqi", answer, place)
    assert (partitions, index, error) == (1, 0, 0) and aborted <= 0, (partitions, index, error, aborted)
    (size,) = struct.unpack_from(">i", answer, place + 30)
    records = answer[place + 34 :]
    assert len(records) == size, f"{size} bytes announced, {len(records)} came"
    return records
