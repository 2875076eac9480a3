"""A real Apache Kafka broker: writes data directories that Penstock must serve, and shows whether the tests are right.

One process is broker and controller (KRaft). It has PenstockPeer's interface, so every test can run against it.
"""

import base64
import uuid
from pathlib import Path

import java_tools
from processes import Service, free_ports
from readiness import answers_metadata

BROKER_OPTIONS = ["-Xmx512m", "-Xms128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
LOG_LEVEL = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
STOPPED_BY_SIGTERM = 143


class KafkaPeer:
    # Kafka refuses a segment.bytes below 1 MiB; its own tests use this other name.
    segment_bytes_key = "internal.segment.bytes"

    def __init__(self, data_dir: Path, settings: dict[str, str] | None = None):
        """`settings` are further lines of server.properties, over those below."""
        self.data_dir = data_dir
        port, controller = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        properties = data_dir.with_suffix(".properties")
        more = "".join(f"{name}={value}\n" for name, value in (settings or {}).items())
        properties.write_text(_properties(data_dir, port, controller) + more)
        if not (data_dir / "meta.properties").exists():
            java_tools.format_storage(properties, _random_cluster_id())
        self._service = Service(
            java_tools.java("kafka.Kafka", properties, options=BROKER_OPTIONS, log_level=LOG_LEVEL),
            log=data_dir.with_suffix(".out"),
            ready=lambda: answers_metadata(self.address),
            ready_within_s=60,
        )

    def stop(self) -> None:
        self._service.stop(expected_exit=STOPPED_BY_SIGTERM)

    def kill(self) -> None:
        self._service.kill()

    def words(self) -> str:
        return self._service.words()


def _random_cluster_id() -> str:
    # As in Kafka, no id begins with a dash, which would make it an option of the command line.
    while (name := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return name


def _properties(data_dir: Path, port: int, controller: int) -> str:
    return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data_dir}
log.cleaner.dedupe.buffer.size=8388608
num.io.threads=2
num.network.threads=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
"""
