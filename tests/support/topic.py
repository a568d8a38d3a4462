"""Reads or writes a topic with Pulsar's own client.

usage: topic.py read SERVICE_URL TOPIC N    N messages from the beginning, as JSON lines {"key", "producer", "data"}
       topic.py send SERVICE_URL TOPIC OPTIONS    the lines of standard input, a message each
OPTIONS: comma-separated: lz4 zlib zstd snappy, batch (all in one), chunk
"""

import json
import sys

import pulsar


def read(client, topic, n):
    reader = client.create_reader(topic, pulsar.MessageId.earliest)
    for _ in range(int(n)):
        message = reader.read_next(60_000)
        text = message.data().decode()
        print(json.dumps({"key": message.partition_key(), "producer": message.producer_name(), "data": text}))


def send(client, topic, options):
    options = set(options.split(","))
    kinds = {
        "lz4": pulsar.CompressionType.LZ4,
        "zlib": pulsar.CompressionType.ZLib,
        "zstd": pulsar.CompressionType.ZSTD,
        "snappy": pulsar.CompressionType.SNAPPY,
    }
    kind = next((kinds[o] for o in options if o in kinds), pulsar.CompressionType.NONE)
    producer = client.create_producer(
        topic,
        compression_type=kind,
        batching_enabled="batch" in options,
        batching_max_publish_delay_ms=10_000,
        chunking_enabled="chunk" in options,
    )
    for line in sys.stdin:
        producer.send_async(line.rstrip("\n").encode(), lambda result, _: None)
    producer.flush()


def main(command, url, *rest):
    client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    {"read": read, "send": send}[command](client, *rest)
    client.close()


main(*sys.argv[1:])
