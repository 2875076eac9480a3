"""Configurations as Apache Kafka's tools set and show them, and the refusal of transactional producers."""

import subprocess
import time

import confluent_kafka
import confluent_kafka.admin
import pytest

import java_tools
from clients import create_topic

# Clients retry for a minute after an error that may pass.
AT_ONCE_S = 20


def test_kafka_configs_shows_and_changes_a_topic(server):
    create_topic(server, "tuned")
    described = java_tools.kafka_configs(server.address, "topics", "tuned", "--describe", "--all")
    assert "min.insync.replicas=1" in described
    assert "message.max.bytes=1048588" in described, "the broker's name for a default is shown"

    changes = "min.insync.replicas=2,segment.jitter.ms=1000,flush.messages=1,cleanup.policy=[delete]"
    java_tools.kafka_configs(server.address, "topics", "tuned", "--alter", "--add-config", changes)
    described = java_tools.kafka_configs(server.address, "topics", "tuned", "--describe")
    for change in ("min.insync.replicas=2", "segment.jitter.ms=1000", "flush.messages=1", "cleanup.policy=delete"):
        assert f"{change} sensitive=false" in described

    java_tools.kafka_configs(server.address, "topics", "tuned", "--alter", "--delete-config", "flush.messages")
    assert "flush.messages" not in java_tools.kafka_configs(server.address, "topics", "tuned", "--describe")


def test_kafka_configs_shows_the_broker(server):
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": server.address})
    (broker,) = admin.list_topics(timeout=30).brokers
    described = java_tools.kafka_configs(server.address, "brokers", broker, "--describe", "--all")
    for name in ("auto.create.topics.enable", "message.max.bytes", "num.partitions", "log.retention.ms"):
        assert f" {name}=" in described


def test_librdkafka_hears_at_once_that_there_are_no_transactions(penstock_only, server):
    producer = confluent_kafka.Producer({"bootstrap.servers": server.address, "transactional.id": "t"})
    started = time.monotonic()
    with pytest.raises(confluent_kafka.KafkaException, match="transactions are not supported") as refused:
        producer.init_transactions(60)
    assert refused.value.args[0].fatal()
    assert time.monotonic() - started < AT_ONCE_S


def test_java_hears_at_once_that_there_are_no_transactions(penstock_only, server):
    create_topic(server, "untransacted")
    command = java_tools.transactional_perf(server.address, "untransacted")
    done = subprocess.run(command, capture_output=True, timeout=AT_ONCE_S)
    assert done.returncode != 0
    assert "transactions are not supported" in done.stderr.decode() + done.stdout.decode()
