"""Counts what is in a topic of Tidegate, with Pulsar's own client and nothing of Tidegate's.

usage: count.py SERVICE_URL TOPIC

Prints one JSON line; support/count.rs says what its fields mean. An event made by the tests has the payload
{"n":SEQUENCE,...}; others are not compared.
"""

import json
import sys
import uuid

import pulsar


def main(url, topic):
    client = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error), operation_timeout_seconds=60)
    consumer = client.subscribe(
        topic,
        "count-" + uuid.uuid4().hex,
        initial_position=pulsar.InitialPosition.Earliest,
        receiver_queue_size=5000,
    )
    ends = {}
    for partition in client.get_topic_partitions(topic):
        reader = client.create_reader(partition, pulsar.MessageId.earliest)
        ends[partition] = reader.has_message_available()
        reader.close()
    seen, last_of_key, partitions = {}, {}, set()
    messages = out_of_order = altered = late = 0
    first = None
    wait_ms = 15000 if any(ends.values()) else 1000
    while True:
        try:
            message = consumer.receive(timeout_millis=wait_ms)
        except pulsar.Timeout:
            break
        wait_ms = 3000
        properties, key = message.properties(), message.partition_key()
        stream, seq = properties["tg_stream"], int(properties["tg_seq"])
        if first is None:
            first = {"key": key, "event_time": message.event_timestamp(), "properties": properties}
        messages += 1
        partitions.add(message.topic_name())
        late += properties.get("tg_late") == "1"
        seen.setdefault(stream, set()).add(seq)
        if last_of_key.get((stream, key), 0) >= seq:
            out_of_order += 1
        last_of_key[(stream, key)] = seq
        data = message.data()
        if data.startswith(b'{"n":') and int(data[5:].split(b",")[0].rstrip(b"}")) != seq:
            altered += 1
    client.close()
    print(json.dumps({
        "messages": messages,
        "distinct": sum(len(s) for s in seen.values()),
        "missing": sum(max(s) - len(s) for s in seen.values()),
        "highest": max((max(s) for s in seen.values()), default=0),
        "out_of_order": out_of_order,
        "altered": altered,
        "late": late,
        "partitions": len(partitions),
        "first": first,
    }))


main(*sys.argv[1:])
