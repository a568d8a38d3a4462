"""Real labelled series as the loop takes them: CSV files of timestamp,value, and JSON with the windows of anomalies.

The format is that of the Numenta Anomaly Benchmark: the windows of each file under its name, with or without its
directory, as in its labels/combined_windows.json.

A model sees one event at a time, so the sender puts what went before into each: how far the value is from the week
before, from the hour before, and from the same time on the day before, all in units of the series' own spread, and
the time of day. All of it looks back only. Each series is divided by its own time: the first 40 % stand for what was
known when the old model was made, up to 70 % for what was gathered since, the last 30 % are held out. The windows
travel as reports when they are over, apart from the readings.
"""

import bisect
import csv
import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from worth import Each

Event = dict[str, Any]

FIELDS = ("level", "hour_mean", "hour_spread", "step", "day_before", "morning", "evening")
PARTS = {"bench": (0.0, 0.4), "fleet": (0.4, 0.7), "heldout": (0.7, 1.0)}
LABELS = ("anomaly_windows.json", "combined_windows.json")
WEEK, DAY, HOUR = (timedelta(days=7), timedelta(days=1), timedelta(hours=1))
HISTORY_MIN = 12  # readings before the first that is sent


class Line:
    """One series: its readings with what went before, and its windows."""

    def __init__(self, number: int, path: Path, windows: list[tuple[datetime, datetime]]) -> None:
        self.name, self.windows = f"{number}-{path.stem}"[:64], windows
        with path.open(newline="") as file:
            table = csv.DictReader(file)
            if not {"timestamp", "value"} <= set(table.fieldnames or ()):
                raise ValueError(f"{path}: the first line must be timestamp,value")
            rows = [(datetime.fromisoformat(row["timestamp"]), float(row["value"])) for row in table]
        rows.sort()
        if len(rows) < 10 * HISTORY_MIN:
            raise ValueError(f"{path}: {len(rows)} readings are too few")
        self.times = [time for time, _ in rows]
        self.values = np.array([value for _, value in rows])

    def at(self, share: float) -> datetime:
        """The time when this share of the series' time is over."""
        return (
            self.times[0]
            + share * (self.times[-1] - self.times[0])
            + (timedelta(seconds=1) if share == 1 else timedelta())
        )

    def reading(self, n: int) -> dict[str, float]:
        """The fields of reading n; looks back only."""
        time, value = self.times[n], self.values[n]
        week = self.values[min(bisect.bisect_left(self.times, time - WEEK), n - HISTORY_MIN) : n]
        hour = self.values[bisect.bisect_left(self.times, time - HOUR) : n + 1]
        low, middle, high = np.percentile(week, [25, 50, 75])
        spread = max(high - low, 0.05 * abs(middle), 1e-6)
        before = self.values[min(bisect.bisect_left(self.times, time - DAY), n)]
        turn = 2 * math.pi * (time.hour + time.minute / 60) / 24
        fields = {
            "level": (value - middle) / spread,
            "hour_mean": (hour.mean() - middle) / spread,
            "hour_spread": hour.std() / spread,
            "step": (value - self.values[n - 1]) / spread,
            "day_before": (value - before) / spread,
            "morning": math.sin(turn),
            "evening": math.cos(turn),
        }
        # Beyond ten spreads it is far off, however far.
        return {name: round(float(np.clip(v, -10, 10)), 4) for name, v in fields.items()}


class Series:
    """All series."""

    fields = FIELDS
    unit = "series"
    each: Each = "fault"  # windows are wide, and most of a window looks like any other time
    trial = "fleet"
    # Nothing is known of what versions will say of real series: these must score, no more.
    gates = {"shadow": ("--gate-errors", "1%"), "active": ("--gate-errors", "1%")}
    judged = False  # what real data shows is shown, not promised

    def __init__(self, files: list[Path], labels: Path | None) -> None:
        for path in files:
            if not path.is_file():
                raise ValueError(f"{path} is no file")
        labels = labels or next((found for name in LABELS if (found := files[0].parent / name).exists()), None)
        if labels is None:
            raise ValueError(f"give --labels FILE: there is no {' or '.join(LABELS)} beside {files[0]}")
        windows = {name.rpartition("/")[2]: spans for name, spans in json.loads(labels.read_text()).items()}
        self.lines = []
        for number, path in enumerate(files):
            if path.name not in windows:
                raise ValueError(f"{labels} says nothing of {path.name}")
            spans = [(datetime.fromisoformat(begin), datetime.fromisoformat(end)) for begin, end in windows[path.name]]
            self.lines.append(Line(number, path, spans))

    def tell(self, name: str) -> str:
        """What the stretch is, for people."""
        if name not in PARTS:
            return ""
        begin, end = PARTS[name]
        what = {
            "bench": "what the old model may learn from",
            "fleet": "gathered since; version 1 scores",
            "heldout": "held out; both versions score",
        }
        return f"{len(self.lines)} series, {100 * begin:.0f} to {100 * end:.0f} % of each one's time: {what[name]}"

    def events(self, name: str) -> Iterator[Event]:
        """All events of a stretch, one of each series in turn."""
        for events in zip_longest(*(of_line(line, name) for line in self.lines)):
            yield from (event for event in events if event)


def of_line(line: Line, name: str) -> Iterator[Event]:
    """The readings of a stretch of a series, and the reports of the windows that end in it."""
    begin, end = (line.at(share) for share in PARTS[name])
    for n, time in enumerate(line.times):
        if begin <= time < end and n >= HISTORY_MIN:
            yield event(name, "telemetry", line, n, time, line.reading(n))
    for n, (since, until) in enumerate(line.windows):
        if begin <= until < end or (name == "heldout" and until >= end):
            # Inclusive, as the benchmark counts.
            data = {"from": stamp(since), "to": stamp(until + timedelta(seconds=1)), "fault": "anomaly"}
            yield event(name, "report", line, n, until, data)


def stamp(time: datetime) -> str:
    """A time as events have it; series without a zone are taken as they are."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def event(stretch: str, kind: str, line: Line, n: int, time: datetime, data: dict[str, Any]) -> Event:
    """A CloudEvent. Times of a series can repeat (clocks are put back), so its number is the id."""
    return {
        "specversion": "1.0",
        "id": f"{stretch}-{kind}-{n}",
        "source": f"urn:series:{line.name}",
        "type": f"machine.{kind}",
        "subject": line.name,
        "time": stamp(time),
        "data": data,
    }
