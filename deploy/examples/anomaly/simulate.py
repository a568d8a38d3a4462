#!/usr/bin/env python3
"""A factory: halls with weather and seasons, machines that differ and wear, faults that begin slowly, and reports of
repairs.

  simulate.py --url http://127.0.0.1:8800 --machines 24 --days 7      posts to a gateway, as fast as it answers

Every ten minutes each machine sends an event `machine.telemetry`. No event says what is wrong: when a fault is over,
an event `machine.report` says which machine had which fault from when to when, as people in the workshop would. Only
training and counting read these reports; the gateways score telemetry alone.

What makes it hard, as in real halls: the temperature of a machine depends on its hall, its load and its own thermal
inertia; vibration and temperature grow with the hours since the last service, faster on some machines; sensors are
off by a constant that differs from machine to machine; a knock can look like a broken bearing for one reading; every
fault begins below the noise, and weak ones stay near it. No threshold and no model separates all of that.
"""

import argparse
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import gateway
from worth import Each

Event = dict[str, Any]

FIELDS = ("load", "hall", "hours", "temperature", "vibration", "current")
FAULTS = ("bearing", "cooling", "jam")
STEP = timedelta(minutes=10)
STEPS_A_DAY = 144
FAULT_STEPS = (18, 72)  # 3 to 12 hours
FAULT_RISE = 0.25  # share of its time until a fault has its whole strength
FAULT_STRENGTH = (0.7, 2.2)
SERVICE_HOURS = (500, 900)
KNOCKS = 0.01  # share of readings


@dataclass(frozen=True)
class Stretch:
    """Which machines run when. The same seed gives the same events; a machine's traits hang on seed and name alone."""

    name: str
    prefix: str
    machines: int
    begin: datetime
    days: int
    fault_every_days: float
    bench: bool = False  # new machines on the maker's bench: any load, a hall that is heated evenly


def stretches(quick: bool = False) -> dict[str, Stretch]:
    """The story: three machines on the maker's bench in January, the fleet in March, other machines in April."""
    day = lambda month, day: datetime(2026, month, day, tzinfo=UTC)  # noqa: E731
    machines, less = (6, 3) if quick else (24, 1)
    return {
        "bench": Stretch("bench", "bench-", 3, day(1, 12), 10, 1, bench=True),
        "fleet": Stretch("fleet", "press-", machines, day(3, 2), 28 // less, 5),
        "trial": Stretch("trial", "press-", machines, day(3, 30), 14, 5),
        "heldout": Stretch("heldout", "new-", machines, day(4, 13), 14 // less, 5),
        "after": Stretch("after", "new-", machines, day(4, 27), 3, 5),
    }


def hall_temperature(seed: int, hall: int, time: datetime, bench: bool) -> float:
    """Season, weather of the day, warmer afternoons, and what is peculiar to the hall, in °C."""
    weather = random.Random(f"{seed} {hall} {time.date()}").gauss(0, 1)
    if bench:
        return 17 + 0.5 * weather
    year_day = time.timetuple().tm_yday + time.hour / 24
    season = -math.cos(2 * math.pi * (year_day - 20) / 365)
    afternoon = math.cos(2 * math.pi * (time.hour + time.minute / 60 - 15) / 24)
    return 20 + 7 * season + 2.5 * afternoon + 1.5 * weather + (hall - 1)


class Machine:
    """One machine: its traits, its state, and the fault it has, if any."""

    def __init__(self, seed: int, stretch: Stretch, number: int) -> None:
        self.name, self.stretch, self.seed = f"{stretch.prefix}{number:02}", stretch, seed
        traits = random.Random(f"{seed} {self.name}")
        self.hall = number % 3
        self.off = {
            "temperature": traits.gauss(0, 1),
            "vibration": traits.gauss(0, 0.08),
            "current": traits.gauss(0, 0.2),
        }
        self.gain, self.wearing = traits.gauss(1, 0.04), max(0.2, traits.gauss(1, 0.25))
        self.nights = traits.random() < 0.4
        self.random = random.Random(f"{seed} {self.name} {stretch.name}")
        self.service = self.random.uniform(*SERVICE_HOURS)
        self.hours = 0.0 if stretch.bench else self.random.uniform(0, self.service)
        self.load, self.heat = 0.4, 12.0
        self.fault: str | None = None
        self.age, self.lasts, self.strength, self.since = 0, 1, 0.0, stretch.begin

    def step(self, time: datetime) -> dict[str, float]:
        """What it measures now."""
        chance = self.random
        self._run(time)
        hall = hall_temperature(self.seed, self.hall, time, self.stretch.bench)
        wear = self.wearing * self.hours / 600
        bearing, cooling, jam = (self._amount(fault) for fault in FAULTS)
        knock = chance.uniform(0.3, 1.2) if chance.random() < KNOCKS else 0.0
        temperature = hall + 14 + self.heat + 3 * wear + 2.5 * bearing + 8 * cooling * (0.3 + self.load)
        vibration = 0.8 + 1.1 * self.load + 0.8 * wear + 0.8 * bearing + 0.25 * jam + knock
        current = 3 + 12 * self.load * self.gain + 0.05 * (20 - hall) + 2.2 * jam
        measured = {
            "load": self.load,
            "hall": hall + chance.gauss(0, 0.3),
            "hours": self.hours,
            "temperature": temperature + self.off["temperature"] + chance.gauss(0, 0.6),
            "vibration": vibration + self.off["vibration"] + chance.gauss(0, 0.07),
            "current": current + self.off["current"] + chance.gauss(0, 0.25),
        }
        return {name: round(value, 3) for name, value in measured.items()}

    def _run(self, time: datetime) -> None:
        """Load by shift, heat behind load, hours until service."""
        shift = self.nights or (time.weekday() < 5 and 6 <= time.hour < 22)
        wanted = 0.65 if shift else 0.12
        if self.stretch.bench:  # the bench drives machines through all loads
            wanted = 0.5 + 0.45 * math.sin(time.timestamp() / 9000 + self.hall)
        self.load = min(1.0, max(0.0, self.load + 0.25 * (wanted - self.load) + self.random.gauss(0, 0.07)))
        self.heat += 0.6 * (26 * self.load - self.heat)
        self.hours += STEP.total_seconds() / 3600
        if self.hours > self.service:
            self.hours = 0.0

    def _amount(self, fault: str) -> float:
        """How strong this fault is now."""
        if self.fault != fault:
            return 0.0
        return self.strength * min(1.0, (self.age + 1) / (FAULT_RISE * self.lasts))

    def break_or_mend(self, time: datetime) -> Event | None:
        """A fault begins, goes on, or ends: then what the workshop reports."""
        if self.fault is None:
            if self.random.random() < 1 / (STEPS_A_DAY * self.stretch.fault_every_days):
                self.fault, self.since, self.age = self.random.choice(FAULTS), time, 0
                self.lasts, self.strength = self.random.randint(*FAULT_STEPS), self.random.uniform(*FAULT_STRENGTH)
            return None
        self.age += 1
        return self.mended(time) if self.age >= self.lasts else None

    def mended(self, time: datetime) -> Event:
        """The report on the fault that it had until now."""
        report = {"from": stamp(self.since), "to": stamp(time), "fault": self.fault}
        self.fault = None
        return {"type": "machine.report", "subject": self.name, "time": stamp(time), "data": report}


def stamp(time: datetime) -> str:
    """A time as events have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def events(seed: int, stretch: Stretch) -> Iterator[Event]:
    """All events of a stretch in the order of time; at its end what is broken is reported as well."""
    machines = [Machine(seed, stretch, number) for number in range(stretch.machines)]
    for step in range(stretch.days * STEPS_A_DAY):
        time = stretch.begin + step * STEP
        for machine in machines:
            report = machine.break_or_mend(time)
            if report:
                yield named(report, seed, stretch)
            data = machine.step(time)
            yield named(
                {"type": "machine.telemetry", "subject": machine.name, "time": stamp(time), "data": data}, seed, stretch
            )
    end = stretch.begin + stretch.days * timedelta(days=1)
    for machine in machines:
        if machine.fault:
            yield named(machine.mended(end), seed, stretch)


def named(event: Event, seed: int, stretch: Stretch) -> Event:
    """With what makes it a CloudEvent: the same event has the same id."""
    kind = event["type"].partition(".")[2]
    event["id"] = f"{stretch.name}-{seed}-{kind}-{event['time']}"
    return {"specversion": "1.0", "source": f"urn:machine:{event['subject']}"} | event


class Factory:
    """The simulated factory as the loop takes it."""

    fields = FIELDS
    unit = "machine"
    each: Each = "reading"  # what recall counts
    trial = "trial"  # what goes on while a version is rolled out
    # Past what anybody expects of a good version somebody should look first. Few machines are behind a gateway, and a
    # fault lasts for hours: a gate over fewer events would stop a version because two of them are broken.
    gates = {
        "shadow": ("--gate-events", "1000", "--gate-disagreed", "20%"),
        "active": ("--gate-events", "1000", "--gate-alarms", "40%", "--gate-errors", "1%"),
    }

    def __init__(self, seed: int, quick: bool) -> None:
        self.seed, self.stretches = seed, stretches(quick)
        self.judged = not quick  # a small factory shows that the loop runs, no more

    def events(self, name: str) -> Iterator[Event]:
        """All events of a stretch."""
        return events(self.seed, self.stretches[name])

    def tell(self, name: str) -> str:
        """What the stretch is, for people."""
        stretch = self.stretches[name]
        when = f"{stretch.machines} machines, {stretch.days} days from {stretch.begin:%d %B}"
        return {
            "bench": f"commissioning: {when}, on the maker's bench, new, with faults provoked",
            "fleet": f"the fleet at work: {when}; version 1 scores",
            "heldout": f"held out: {when}, none of them seen in training; both versions score",
            "after": f"at work with version 2 alone: {when}",
        }[name]


def main() -> None:
    """Reads the options and posts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the gateway to post to")
    parser.add_argument("--machines", type=int, default=24)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--prefix", default="press-", help="what the machines' names begin with (press-)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begin = datetime(2026, 3, 2, tzinfo=UTC)
    stretch = Stretch("fleet", options.prefix, options.machines, begin, options.days, 5)
    print(f"{gateway.post_all(options.url, events(options.seed, stretch))} events accepted")


if __name__ == "__main__":
    main()
