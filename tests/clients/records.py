"""The records that all clients write and read: numbered lines of a real CSV, the world's airfields.

The digest of a stream of records is the SHA-256 of its values, each followed by a line feed, partition after partition.
"""

import hashlib
import itertools
import os
from pathlib import Path

import airportsdata

COUNT = int(os.environ.get("PENSTOCK_RECORDS", "20000"))


def numbered_lines(count: int) -> list[bytes]:
    """`count` different values: the file's lines over and over, each with its number in front."""
    lines = Path(airportsdata.__file__).with_name("airports.csv").read_bytes().splitlines()
    return [b"%d,%s" % numbered for numbered in enumerate(itertools.islice(itertools.cycle(lines), count))]


def digest(values) -> str:
    hashed = hashlib.sha256()
    for value in values:
        hashed.update(value)
        hashed.update(b"\n")
    return hashed.hexdigest()


def assert_same(read: list[bytes], written: list[bytes], what: str) -> None:
    """The streams are one; if not, the failure says where they part."""
    if digest(read) == digest(written):
        return
    place = next((i for i, (a, b) in enumerate(zip(read, written)) if a != b), min(len(read), len(written)))
    raise AssertionError(
        f"{what}: {len(read)} values read, {len(written)} written; the first to differ is number {place}:\n"
        f"read    {read[place:place + 2]}\nwritten {written[place:place + 2]}"
    )
