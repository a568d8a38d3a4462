"""The independent witness: Pulsar's official client writes down every message of a topic as it arrives.

usage: witness.py SERVICE_URL TOPIC OUTPUT
One line a message: ce_id, key, tg_stream, tg_seq, CRC32 of the payload, topic partition, separated by tabs.
Runs until it gets SIGTERM; the file is complete up to the last line break at any time.
"""
import signal
import sys
import zlib

import pulsar

service, topic, output = sys.argv[1:4]
stop = False


def on_term(*_):
    global stop
    stop = True


signal.signal(signal.SIGTERM, on_term)
client = pulsar.Client(service, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
consumer = client.subscribe(
    topic, "witness", consumer_type=pulsar.ConsumerType.Exclusive,
    initial_position=pulsar.InitialPosition.Earliest, receiver_queue_size=5000)
# The witness must not count what the broker sends again after a restart as a message of its own:
# a message is identified by its position in the topic, which the broker never reuses.
seen = set()
with open(output, "w", encoding="utf-8") as out:
    while not stop:
        try:
            message = consumer.receive(500)
        except pulsar.Timeout:
            out.flush()
            continue
        except Exception as error:  # the broker is away; the client reconnects by itself
            print("witness:", error, file=sys.stderr)
            continue
        position = message.message_id()
        place = (message.topic_name(), position.ledger_id(), position.entry_id(), position.batch_index())
        if place not in seen:
            seen.add(place)
            properties = message.properties()
            fields = (properties.get("ce_id", ""), message.partition_key(), properties.get("tg_stream", ""),
                      properties.get("tg_seq", ""), str(zlib.crc32(message.data())), message.topic_name())
            out.write("\t".join(fields) + "\n")
        consumer.acknowledge(message)
    out.flush()
client.close()
