"""A partition's files, read without a server: their names, and the headers of their batches.

    position 0        8        12      16      17    21      23          27         57     61
             | base   | length | epoch | magic | crc | attrs | last delta| ..       | count | records ...
"""

import struct
from pathlib import Path
from typing import NamedTuple

CODEC_BITS = ["none", "gzip", "snappy", "lz4", "zstd"]
LENGTH_ENDS = 12
HEAD_BYTES = 61


class Batch(NamedTuple):
    base_offset: int
    position: int
    len_bytes: int
    codec: str
    producer_id: int
    count: int


def segments(data_dir: Path, topic: str, partition: int = 0) -> list[Path]:
    """The partition's .log files, oldest first."""
    return sorted((data_dir / f"{topic}-{partition}").glob("*.log"))


def log_bytes(data_dir: Path, topic: str, partition: int = 0) -> bytes:
    return b"".join(log.read_bytes() for log in segments(data_dir, topic, partition))


def batches(log: bytes) -> list[Batch]:
    """The whole batches that stand in these bytes; a cut one at the end is left out."""
    found, position = [], 0
    while position + HEAD_BYTES <= len(log):
        base_offset, length = struct.unpack_from(">qi", log, position)
        assert length >= HEAD_BYTES - LENGTH_ENDS, f"batch of length {length} at position {position}"
        if position + LENGTH_ENDS + length > len(log):
            break
        (attributes,) = struct.unpack_from(">h", log, position + 21)
        (producer_id,) = struct.unpack_from(">q", log, position + 43)
        (count,) = struct.unpack_from(">i", log, position + 57)
        codec = CODEC_BITS[attributes & 7]
        found.append(Batch(base_offset, position, LENGTH_ENDS + length, codec, producer_id, count))
        position += LENGTH_ENDS + length
    return found


def tear(log: Path) -> None:
    """Leaves half a batch at the file's end, as a write does that was cut short."""
    first = batches(log.read_bytes())[0]
    with log.open("r+b") as file:
        half = file.read(first.len_bytes // 2)
        file.seek(0, 2)
        file.write(half)
