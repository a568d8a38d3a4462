"""Reads what the cloud has stored (its sink "files"): telemetry with the gateways' scores, and the reports of faults.

A reading is faulty when a report names its machine and a time that it lies in. Reports travel apart from telemetry,
and later.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

TELEMETRY, REPORT = "machine.telemetry", "machine.report"


@dataclass
class Scored:
    """What one role's model said: the version (0: none) and the score (NaN: none) of each reading."""

    version: np.ndarray
    score: np.ndarray


@dataclass
class Readings:
    """Telemetry, a row each."""

    machines: np.ndarray
    times: np.ndarray  # seconds since 1970
    rows: np.ndarray  # 32-bit floats, a column for each field
    faults: np.ndarray  # which reported fault it lies in, counted from 0; -1: none
    active: Scored
    shadow: Scored
    nodes: list[str] = field(default_factory=list)

    @property
    def faulty(self) -> np.ndarray:
        """Whether a report covers it."""
        return self.faults >= 0


def stored(directory: Path) -> Iterator[dict[str, Any]]:
    """Every event as it is there; files in which the cloud still writes are left out."""
    for path in sorted(directory.rglob("*.ndjson.zst")):
        with path.open("rb") as file:
            text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
            for line in text:
                yield json.loads(line)


def once(events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each event once: a machine that had no answer sends an event again, and after a while nobody removes that."""
    seen: set[tuple[str, str]] = set()
    for event in events:
        name = (event["source"], event["id"])
        if name not in seen:
            seen.add(name)
            yield event


def seconds(time: str) -> float:
    """Seconds since 1970 of an event's time."""
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def marked(reports: Iterable[dict[str, Any]], machines: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Which of the reports covers each reading; -1: none."""
    faults = np.full(len(machines), -1)
    of_machine = {machine: np.flatnonzero(machines == machine) for machine in set(machines)}
    for number, report in enumerate(reports):
        mine = of_machine.get(report["subject"], np.zeros(0, int))
        begin, end = seconds(report["data"]["from"]), seconds(report["data"]["to"])
        faults[mine[(times[mine] >= begin) & (times[mine] < end)]] = number
    return faults


def readings(events: Iterable[dict[str, Any]], fields: list[str], begins: str = "") -> Readings:
    """All telemetry that has the fields, of stretches whose ids begin with `begins`, and what is reported of it."""
    telemetry, reports = [], []
    for event in events:
        if event["type"] == REPORT:
            reports.append(event)
        elif event["type"] == TELEMETRY and event["id"].startswith(begins) and all(f in event["data"] for f in fields):
            telemetry.append(event)
    # Gateways deliver side by side: without an order of its own no training would give the same model twice.
    telemetry.sort(key=lambda event: (event["subject"], event["time"], event["id"]))
    machines = np.array([event["subject"] for event in telemetry], dtype=object)
    times = np.array([seconds(event["time"]) for event in telemetry])
    rows = np.array([[event["data"][f] for f in fields] for event in telemetry], np.float32).reshape(-1, len(fields))
    nodes = [event.get("node", "") for event in telemetry]
    return Readings(
        machines,
        times,
        rows,
        marked(reports, machines, times),
        scored(telemetry, "tg"),
        scored(telemetry, "tgshadow"),
        nodes,
    )


def scored(telemetry: list[dict[str, Any]], prefix: str) -> Scored:
    """The attributes that gateways wrote: <prefix>model is name@version, <prefix>score a number."""
    extensions = [event.get("extensions") or {} for event in telemetry]
    version = [int(e.get(f"{prefix}model", "@0").rpartition("@")[2]) for e in extensions]
    score = [float(e.get(f"{prefix}score", "nan")) for e in extensions]
    return Scored(np.array(version, int), np.array(score))
