"""Whether a server of Kafka's protocol answers."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient


def answers_metadata(address: str) -> bool:
    """True once the answer to a metadata request has a broker."""
    client = AdminClient({"bootstrap.servers": address, "log_level": 0, "socket.timeout.ms": 2_000})
    try:
        return len(client.list_topics(timeout=2).brokers) > 0
    except KafkaException:
        return False
