"""The files in deploy/ fit the server: it runs under their filters, and the dashboard shows its metrics."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from confluent_kafka import Consumer, TopicPartition

from clients import SEGMENT_BYTES, confluent_read, confluent_write, create_topic
from penstock_peer import BINARY
from processes import CHECKOUT, run
from records import assert_same

DEPLOY = CHECKOUT / "deploy"
METRIC = re.compile(r"\bpenstock_\w+")


def test_systemd_finds_nothing_to_complain_of_in_the_unit(tmp_path):
    """systemd also checks that the program exists, so the unit gets one that does."""
    unit = tmp_path / "penstock.service"
    program = BINARY if BINARY.exists() else shutil.which("true")
    unit.write_text((DEPLOY / "penstock.service").read_text().replace("/usr/local/bin/penstock", str(program)))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def systemd_filter() -> dict:
    """The unit's SystemCallFilter in a container runtime's words."""
    unit = (DEPLOY / "penstock.service").read_text()
    groups = re.search(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE)[1].split()
    names, left = set(), groups
    while left:
        word = left.pop()
        if not word.startswith("@"):
            names.add(word)
            continue
        listed = run(["systemd-analyze", "syscall-filter", word], timeout_s=60).decode()
        left += re.findall(r"^ +([@\w-]+)$", listed, re.MULTILINE)
    allowed = {"names": sorted(names), "action": "SCMP_ACT_ALLOW"}
    return {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [allowed]}


FILTERS = {
    "container": lambda: json.loads((DEPLOY / "seccomp.json").read_text()),
    "systemd": systemd_filter,
}


@pytest.mark.parametrize("where", FILTERS)
def test_the_filter_lets_splice_chains_through(penstock_only, start, values, where, tmp_path):
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(FILTERS[where]()))
    launcher = (sys.executable, CHECKOUT / "tests/clients/under_seccomp.py", profile)
    server = start(fetch_path="chain", launcher=launcher)
    create_topic(server, "filtered")
    confluent_write(server.address, "filtered", "none", values)
    read = confluent_read(server.address, "filtered", 0, 0, len(values))
    assert_same(read, values, f"confluent reading from a server under the filter of {where}")
    sent = server.sent_bytes()
    assert sent["chain"] > SEGMENT_BYTES and sent["copy"] == sent["sendfile"] == 0, f"{sent}\n{server.words()}"
    server.stop()


@pytest.mark.parametrize("call", ["mount", "ptrace", "bpf", "keyctl", "unshare"])
def test_the_container_profile_still_refuses_what_a_server_has_no_use_for(call):
    allowed = {name for rule in FILTERS["container"]()["syscalls"] for name in rule["names"]}
    assert call not in allowed


def test_every_metric_of_the_dashboard_is_served(penstock_only, start, values):
    # Budgets are shown where there are any.
    server = start(settings={"fetch.cold.bytes.per.second": 1_000_000_000})
    create_topic(server, "measured")
    confluent_write(server.address, "measured", "none", values)
    confluent_read(server.address, "measured", 0, 0, len(values))
    # The lag of a group is shown once it has committed.
    consumer = Consumer({"bootstrap.servers": server.address, "group.id": "measuring"})
    consumer.commit(offsets=[TopicPartition("measured", 0, 1)], asynchronous=False)
    consumer.close()
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for query in queries for name in METRIC.findall(query)}
    assert shown, "the dashboard shows nothing"
    missing = shown - server.metrics().keys()
    assert not missing, f"on the dashboard but not served: {sorted(missing)}"
