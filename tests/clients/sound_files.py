"""Checks that kafka-dump-log accepts a partition's files and reports nothing else."""

import re
from pathlib import Path

import java_tools
from segment_files import batches

# The tool reports a mismatch and still exits with 0, so every other line is a complaint.
NO_COMPLAINT = re.compile(
    r"""Dumping\ \S+
    | Log\ starting\ offset:\ \d+
    | baseOffset:\ \d+\ .*\ isvalid:\ true
    | \S+\ passed\ sanity\ check\.
    |""",
    re.VERBOSE,
)
EMPTY_INDEX = re.compile(r"(\S+)\.index is empty\.")

# Kafka writes an index entry when more than this many bytes came since the last one.
INDEX_INTERVAL_BYTES = 4096


def assert_kafka_accepts(partition_dirs: list[Path]) -> None:
    """Checks that every batch decodes, every index entry points to its batch, and every index would be loaded."""
    logs, indexes = _files(partition_dirs, "log"), _files(partition_dirs, "index") + _files(partition_dirs, "timeindex")
    assert logs and len(indexes) == 2 * len(logs), f"{len(logs)} logs and {len(indexes)} indexes in {partition_dirs}"
    _assert_no_complaint(java_tools.dump_log(logs, "--deep-iteration", "--skip-record-metadata"))
    _assert_no_complaint(java_tools.dump_log(indexes, "--verify-index-only"))
    printed = java_tools.dump_log(indexes, "--index-sanity-check")
    _assert_no_complaint(printed)
    judged = printed.count("passed sanity check.") + len(EMPTY_INDEX.findall(printed))
    assert judged == len(indexes), f"{judged} of {len(indexes)} indexes judged"


def _files(partition_dirs: list[Path], suffix: str) -> list[Path]:
    return sorted(file for directory in partition_dirs for file in directory.glob(f"*.{suffix}"))


def _assert_no_complaint(printed: str) -> None:
    lines = [line.strip() for line in printed.splitlines()]
    complaints = [line for line in lines if not NO_COMPLAINT.fullmatch(line) and not _rightly_empty(line)]
    assert not complaints, "\n".join(["kafka-dump-log complains:", *complaints[:20]])


def _rightly_empty(line: str) -> bool:
    """An offset index has no entry as long as its log's last batch begins within the first interval."""
    empty = EMPTY_INDEX.fullmatch(line)
    if not empty:
        return False
    found = batches(Path(f"{empty[1]}.log").read_bytes())
    return not found or found[-1].position <= INDEX_INTERVAL_BYTES
