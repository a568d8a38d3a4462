"""Sends N messages with Pulsar's own client, batching on, and prints messages per second.

usage: produce.py SERVICE_URL TOPIC N BYTES
"""

import sys
import threading
import time

import pulsar


def main(url, topic, n, size):
    n, data = int(n), b"x" * int(size)
    client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    producer = client.create_producer(
        topic,
        batching_enabled=True,
        batching_max_messages=1000,
        batching_max_allowed_size_in_bytes=128 << 10,
        batching_max_publish_delay_ms=10,
        max_pending_messages=50000,
        max_pending_messages_across_partitions=200000,
        block_if_queue_full=True,
    )
    failed = []
    done = threading.Event()
    left = n

    def receipt(result, _):
        nonlocal left
        if result != pulsar.Result.Ok:
            failed.append(result)
        left -= 1
        if left == 0:
            done.set()

    keys = [f"dev-{i}" for i in range(50)]
    begun = time.monotonic()
    for i in range(n):
        producer.send_async(data, receipt, partition_key=keys[i % 50])
    producer.flush()
    done.wait(60)
    elapsed = time.monotonic() - begun
    client.close()
    if failed or left:
        sys.exit(f"{len(failed)} failed, {left} without an answer")
    print(n / elapsed)


main(*sys.argv[1:])
