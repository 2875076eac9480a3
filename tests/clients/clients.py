"""The clients under test, behind two calls: write values to a partition, read a partition from an offset to its end.

| name      | what it is                                   | built on             |
|-----------|----------------------------------------------|----------------------|
| kcat      | Debian's kcat                                | librdkafka 2.0       |
| confluent | confluent-kafka of PyPI                      | librdkafka, current  |
| aiokafka  | aiokafka of PyPI                             | pure Python, asyncio |
| java      | kafka-console-producer and -consumer         | Apache Kafka's own   |

Every reader checks the CRC of each batch, and fails if the end does not come in time.
"""

import asyncio
import time

import aiokafka
import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

import java_tools
from processes import patience_s, run

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]

# Batches well below the tests' segments: a batch larger than a segment is refused, and a log of few batches shows little.
BATCH_BYTES = 64 * 1024
SEGMENT_BYTES = 256 * 1024


def create_topic(server, topic: str, partitions: int = 1, segment_bytes: int = SEGMENT_BYTES) -> None:
    """A topic whose log takes several segments even for the small counts of `make test`."""
    config = {server.segment_bytes_key: str(segment_bytes)}
    admin = AdminClient({"bootstrap.servers": server.address, "log_level": 0})
    admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(timeout=30)


def topic_names(address: str) -> set[str]:
    return set(AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=30).topics)


# --- writing ---------------------------------------------------------------------------------------


def kcat_write(address: str, topic: str, codec: str, values: list[bytes], partition: int = 0) -> None:
    settings = ["-X", f"batch.size={BATCH_BYTES}", "-X", "acks=all", "-z", codec]
    run(
        ["kcat", "-P", "-b", address, "-t", topic, "-p", partition, *settings],
        timeout_s=patience_s(len(values)),
        stdin=b"".join(value + b"\n" for value in values),
    )


def confluent_write(
    address: str, topic: str, codec: str, values: list[bytes], partition: int = 0, idempotent: bool = False
) -> None:
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": address,
            "acks": "all",
            "batch.size": BATCH_BYTES,
            "compression.type": codec,
            "enable.idempotence": idempotent,
            "linger.ms": 20,
        }
    )
    refused: list[str] = []

    def delivered(error, _message) -> None:
        if error is not None:
            refused.append(str(error))

    for value in values:
        while True:
            try:
                producer.produce(topic, value, partition=partition, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(1)
        producer.poll(0)
    unsent = producer.flush(patience_s(len(values)))
    assert unsent == 0 and not refused, f"{unsent} values unsent, {len(refused)} refused: {refused[:3]}"


def aiokafka_write(
    address: str, topic: str, codec: str, values: list[bytes], partition: int = 0, idempotent: bool = False
) -> None:
    async def write() -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=address,
            acks="all",
            compression_type=None if codec == "none" else codec,
            enable_idempotence=idempotent,
            max_batch_size=BATCH_BYTES,
        )
        async with producer:
            for value in values:
                delivery = await producer.send(topic, value, partition=partition)
            await producer.flush()
            await delivery

    asyncio.run(asyncio.wait_for(write(), patience_s(len(values))))


def java_write(address: str, topic: str, codec: str, values: list[bytes]) -> None:
    """The console producer cannot choose a partition, so the topic must have only one."""
    java_tools.console_producer(address, topic, codec, BATCH_BYTES, values)


# --- reading ---------------------------------------------------------------------------------------


def kcat_read(address: str, topic: str, partition: int, offset: int, count: int) -> list[bytes]:
    settings = ["-X", "check.crcs=true", "-o", offset, "-e", "-q"]
    command = ["kcat", "-C", "-b", address, "-t", topic, "-p", partition, *settings]
    return run(command, timeout_s=patience_s(count)).splitlines()


def confluent_read(address: str, topic: str, partition: int, offset: int, count: int) -> list[bytes]:
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "reads-by-partition",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "check.crcs": True,
        }
    )
    values: list[bytes] = []
    deadline = time.monotonic() + patience_s(count)
    try:
        consumer.assign([confluent_kafka.TopicPartition(topic, partition, offset)])
        while time.monotonic() < deadline:
            for message in consumer.consume(10_000, timeout=0.1):
                error = message.error()
                if error is None:
                    values.append(message.value())
                elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    return values
                else:
                    raise AssertionError(f"after {len(values)} values: {error}")
    finally:
        consumer.close()
    raise AssertionError(f"the end did not come; {len(values)} of {count} values were read")


def aiokafka_read(address: str, topic: str, partition: int, offset: int, count: int) -> list[bytes]:
    place = aiokafka.TopicPartition(topic, partition)

    async def read() -> list[bytes]:
        values: list[bytes] = []
        async with aiokafka.AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False) as consumer:
            consumer.assign([place])
            consumer.seek(place, offset)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                for messages in (await consumer.getmany(timeout_ms=1_000)).values():
                    values.extend(message.value for message in messages)
        return values

    return asyncio.run(asyncio.wait_for(read(), patience_s(count)))


WRITERS = {"kcat": kcat_write, "confluent": confluent_write, "aiokafka": aiokafka_write, "java": java_write}
READERS = {
    "kcat": kcat_read,
    "confluent": confluent_read,
    "aiokafka": aiokafka_read,
    "java": java_tools.console_consumer,
}
