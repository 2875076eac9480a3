"""Apache Kafka's command line tools, run as their shell scripts run them."""

import shlex
from pathlib import Path

from processes import TARGET, patience_s, run

LIBRARIES = TARGET / "kafka-libs"

# Small and quick to start, because most of these run for a second.
TOOL_OPTIONS = ["-Xmx256m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"

FILES_A_DUMP = 400

CONFIG_COMMAND = "org.apache.kafka.tools.ConfigCommand"

# The shell scripts of Kafka's bin/ that exported scripts call, and their classes.
COMMANDS = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-configs.sh": CONFIG_COMMAND,
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-delete-records.sh": "org.apache.kafka.tools.DeleteRecordsCommand",
}


def java(main_class: str, *arguments, options=TOOL_OPTIONS, log_level=QUIET) -> list[str]:
    """The command that starts a class of Apache Kafka."""
    return ["java", *options, log_level, "-cp", f"{LIBRARIES}/*", main_class, *map(str, arguments)]


def command_scripts(directory: Path) -> Path:
    """Fills a directory with Kafka's commands, as its bin/ has them."""
    directory.mkdir()
    for name, main_class in COMMANDS.items():
        script = directory / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(java(main_class))} "$@"\n')
        script.chmod(0o755)
    return directory


def format_storage(properties: Path, cluster_id: str) -> None:
    arguments = ["format", "-t", cluster_id, "-c", properties]
    run(java("kafka.tools.StorageTool", *arguments), timeout_s=60)


def kafka_topics(server: str, *arguments) -> str:
    command = java("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", server, *arguments)
    return run(command, timeout_s=60).decode()


def kafka_configs(server: str, kind: str, name, *arguments) -> str:
    arguments = ["--bootstrap-server", server, "--entity-type", kind, "--entity-name", name, *arguments]
    return run(java(CONFIG_COMMAND, *arguments), timeout_s=60).decode()


def console_producer(server: str, topic: str, codec: str, batch_bytes: int, values: list[bytes]) -> None:
    """Sends each value as a line. The Java producer is idempotent by default, and this one keeps the default."""
    arguments = ["--bootstrap-server", server, "--topic", topic, "--compression-codec", codec]
    arguments += ["--max-partition-memory-bytes", batch_bytes]
    lines = b"".join(value + b"\n" for value in values)
    run(java("org.apache.kafka.tools.ConsoleProducer", *arguments), timeout_s=patience_s(len(values)), stdin=lines)


def console_consumer(server: str, topic: str, partition: int, offset: int, count: int) -> list[bytes]:
    """Reads one partition from an offset on, outside any group."""
    arguments = ["--bootstrap-server", server, "--topic", topic, "--partition", partition]
    arguments += ["--offset", offset, "--max-messages", count, "--timeout-ms", 20_000]
    printed = run(java("org.apache.kafka.tools.consumer.ConsoleConsumer", *arguments), timeout_s=patience_s(count))
    return printed.splitlines()


def console_group_consumer(server: str, topic: str, group: str, count: int) -> list[bytes]:
    """Reads as the only member of a group, from where the group is."""
    arguments = ["--bootstrap-server", server, "--topic", topic, "--group", group, "--from-beginning"]
    arguments += ["--max-messages", count, "--timeout-ms", 20_000]
    printed = run(java("org.apache.kafka.tools.consumer.ConsoleConsumer", *arguments), timeout_s=patience_s(count))
    return printed.splitlines()


def producer_perf(server: str, topic: str, records: int, record_bytes: int) -> str:
    arguments = ["--topic", topic, "--num-records", records, "--record-size", record_bytes, "--throughput", -1]
    arguments += ["--producer-props", f"bootstrap.servers={server}"]
    command = java("org.apache.kafka.tools.ProducerPerformance", *arguments)
    return run(command, timeout_s=patience_s(records)).decode()


def transactional_perf(server: str, topic: str) -> list[str]:
    """The command of a Java producer that asks for transactions first."""
    arguments = ["--topic", topic, "--num-records", 1, "--record-size", 10, "--throughput", -1]
    arguments += ["--producer-props", f"bootstrap.servers={server}", "--transactional-id", "t"]
    return java("org.apache.kafka.tools.ProducerPerformance", *arguments)


def consumer_perf(server: str, topic: str, records: int) -> str:
    """Subscribes, so it needs a group coordinator."""
    arguments = ["--bootstrap-server", server, "--topic", topic, "--messages", records, "--timeout", 20_000]
    command = java("org.apache.kafka.tools.ConsumerPerformance", *arguments)
    return run(command, timeout_s=patience_s(records)).decode()


def dump_log(files: list[Path], *arguments) -> str:
    """What kafka-dump-log says of logs and indexes, some hundred a run: a command line has its limits."""
    printed = []
    for at in range(0, len(files), FILES_A_DUMP):
        names = ",".join(map(str, files[at : at + FILES_A_DUMP]))
        printed.append(run(java("org.apache.kafka.tools.DumpLogSegments", "--files", names, *arguments), timeout_s=600).decode())
    return "".join(printed)
