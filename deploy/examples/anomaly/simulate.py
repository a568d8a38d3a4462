#!/usr/bin/env python3
"""Machines that send telemetry, and now and then have a fault. Each event says in `label` which one (for training and for
counting; no model is given it as a field).

  simulate.py --url http://127.0.0.1:8800 --machines 20 --minutes 60      posts to a gateway, as fast as it answers
  simulate.py --write DIR --machines 20 --minutes 600                     writes a file as the cloud's sink "files" does

A minute is one event per machine. What is normal depends on the machine (each has its own bias) and on its load; a fault is
small beside what the load does, so that a threshold on one reading finds faults late or cries wolf at full load.
"""

import argparse
import json
import pathlib
import random
import sys
import urllib.request
from datetime import datetime, timedelta, timezone

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
FAULTS = ("bearing", "cooling", "overcurrent")
FAULT_EVERY_MINUTES = 240  # on average, per machine
FAULT_MINUTES = (10, 40)
POSTED_TOGETHER = 500


class Machine:
    """One machine: its bias, its load, and the fault it has, if any."""

    def __init__(self, name, seed):
        self.name = name
        self.random = random.Random(f"{seed} {name}")
        self.bias = {"temperature": self.random.gauss(0, 2), "vibration": self.random.gauss(0, 0.12)}
        self.load, self.fault, self.left, self.strength = 0.5, None, 0, 0.0

    def minute(self):
        """What it measures in the next minute."""
        chance = self.random
        self.load = min(1.0, max(0.0, self.load + chance.gauss(0, 0.08)))
        if self.fault is None and chance.random() < 1 / FAULT_EVERY_MINUTES:
            self.fault, self.left = chance.choice(FAULTS), chance.randint(*FAULT_MINUTES)
            self.strength = chance.uniform(0.6, 1.4)
        strength = self.strength if self.fault else 0.0
        reading = {
            "load": self.load,
            "temperature": 42 + 26 * self.load + self.bias["temperature"] + chance.gauss(0, 1.2),
            "vibration": 1.2 + 1.5 * self.load + self.bias["vibration"] + chance.gauss(0, 0.12),
            "current": 4 + 11 * self.load + chance.gauss(0, 0.4),
        }
        if self.fault == "bearing":
            reading["vibration"] += 0.8 * strength
            reading["temperature"] += 3 * strength
        elif self.fault == "cooling":
            reading["temperature"] += 9 * strength
        elif self.fault == "overcurrent":
            reading["current"] += 3 * strength
        reading = {name: round(value, 3) for name, value in reading.items()}
        reading["label"] = self.fault or "ok"
        if self.fault:
            self.left -= 1
            if self.left == 0:
                self.fault = None
        return reading


def events(options):
    """All events, minute by minute."""
    machines = [Machine(f"{options.prefix}{n:03}", options.seed) for n in range(options.machines)]
    for minute in range(options.minutes):
        time = (BEGIN + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")
        for machine in machines:
            name = machine.name
            yield {"specversion": "1.0", "id": f"{options.seed}-{minute}", "source": f"urn:machine:{name}",
                   "type": options.type, "subject": name, "time": time, "data": machine.minute()}


def post(options, batch):
    """Posts events to a gateway, which has them on disk when it answers."""
    body = json.dumps(batch).encode()
    headers = {"content-type": "application/cloudevents-batch+json"}
    request = urllib.request.Request(f"{options.url}/v1/events", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["accepted"]


def write(options):
    """Writes what the cloud would have stored of these events in <dir>/<lane>/."""
    import zstandard

    directory = pathlib.Path(options.write) / "telemetry"
    directory.mkdir(parents=True, exist_ok=True)
    path, count = directory / "2026-01-01T00-00-00Z-000001.ndjson.zst", 0
    with open(path, "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
        for count, event in enumerate(events(options), 1):
            del event["specversion"]
            line = {"node": "simulated", "incarnation": "0", "lane": "telemetry", "seq": count, "late": False,
                    "datacontenttype": "application/json"} | event
            out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    print(f"{count} events in {path}")


def main():
    """Reads the options and does it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="the gateway to post to")
    parser.add_argument("--write", metavar="DIR", help="write a file instead, as the cloud does")
    parser.add_argument("--machines", type=int, default=20)
    parser.add_argument("--minutes", type=int, default=600)
    parser.add_argument("--prefix", default="press-", help="what the machines' names begin with (press-)")
    parser.add_argument("--type", default="press.telemetry", help="type of the events (press.telemetry)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, machines and minutes give the same events")
    options = parser.parse_args()
    if (options.url is None) == (options.write is None):
        parser.error("give either --url or --write")
    if options.write:
        return write(options)
    batch, accepted = [], 0
    for event in events(options):
        batch.append(event)
        if len(batch) == POSTED_TOGETHER:
            accepted, batch = accepted + post(options, batch), []
    if batch:
        accepted += post(options, batch)
    print(f"{accepted} events accepted")
    return None


if __name__ == "__main__":
    sys.exit(main())
