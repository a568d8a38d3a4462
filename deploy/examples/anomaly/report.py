"""The tables at the end, and whether what the example promises holds."""

from typing import Protocol

import numpy as np

from lake import Readings
from plant import ALARM_ABOVE
from worth import Count, Each, at_recall, change, count, table, threshold_for

FALSE_ALARMS_DOWN = 0.40  # what the example promises for the simulated factory
RECALLS = (0.6, 0.7, 0.8, 0.9)

Check = tuple[str, bool]


class Judged(Protocol):
    """What is told of a source."""

    unit: str
    each: Each
    judged: bool


def machine_days(held: Readings) -> float:
    """Days for which machines were watched, summed over machines."""
    return sum(float(np.ptp(held.times[held.machines == machine])) / 86_400 for machine in set(held.machines))


def row(name: str, score: np.ndarray, threshold: float, held: Readings, each: Each) -> list[str]:
    """A line of the first table."""
    counted, found = count(score, held.faults, threshold, each), count(score, held.faults, threshold, "fault")
    per_day = counted.false_alarms / machine_days(held)
    return [
        name,
        f"{threshold:.3f}",
        f"{counted.false_alarms:,}",
        f"{per_day:.2f}",
        f"{counted.missed:,}",
        f"{counted.recall:.3f}",
        f"{found.found} of {found.found + found.missed}",
    ]


def compared(held: Readings, source: Judged) -> tuple[str, Count, Count]:
    """The tables; what the old model counts at the new one's recall, and what the new one counts."""
    old, new, each = held.active.score, held.shadow.score, source.each
    after = count(new, held.faults, ALARM_ABOVE, each)
    moved = threshold_for(after.recall, old, held.faults, each)
    rows = [
        row("old, as delivered", old, ALARM_ABOVE, held, each),
        row("new, as published", new, ALARM_ABOVE, held, each),
        row("old, at the new one's recall", old, moved, held, each),
    ]
    header = [
        "",
        "threshold",
        "false alarms",
        f"per {source.unit} and day",
        f"missed {each}s",
        "recall",
        "faults found",
    ]
    equal = []
    for recall in RECALLS:
        a, b = (at_recall(recall, score, held.faults, each) for score in (old, new))
        equal.append(
            [f"{recall:.1f}", f"{a.false_alarms:,}", f"{b.false_alarms:,}", change(a.false_alarms, b.false_alarms)]
        )
    second = table(["false alarms at a recall of", "old", "new", "change"], equal)
    return f"{table(header, rows)}\n\n{second}\n", count(old, held.faults, moved, each), after


def comparison(held: Readings, source: Judged) -> Check:
    """Prints the tables; what they say of the claim."""
    healthy, scores = ~held.faulty, (held.active.score, held.shadow.score)
    if not held.faulty.any() or not healthy.any() or any(np.isnan(score).any() for score in scores):
        return "the versions can be compared: faulty readings, healthy ones, and a score of both for each", False
    tables, before, after = compared(held, source)
    print(tables)
    down = 1 - after.false_alarms / max(1, before.false_alarms)
    said = (
        f"false alarms at equal recall ({after.recall:.3f}): {before.false_alarms:,} before, {after.false_alarms:,} "
        f"after, {change(before.false_alarms, after.false_alarms)}"
    )
    if not source.judged:
        return f"{said}; nothing is promised here", True
    return f"{said}; promised: -{100 * FALSE_ALARMS_DOWN:.0f} % or better", down >= FALSE_ALARMS_DOWN


def afterwards(after: Readings, source: Judged) -> str:
    """What the new version alone did when it was in use."""
    counted = count(after.active.score, after.faults, ALARM_ABOVE, source.each)
    days = machine_days(after)
    return (
        f"In use afterwards, {days:.0f} {source.unit} days: {counted.false_alarms:,} false alarms "
        f"({counted.false_alarms / days:.2f} per {source.unit} and day), recall {counted.recall:.3f}.\n"
    )


def judge(held: Readings, after: Readings, source: Judged, checks: list[Check]) -> bool:
    """Prints tables and claims; whether all hold."""
    units, faulty = len(set(held.machines)), int(held.faulty.sum())
    print(
        f"\nHeld out: {len(held.times):,} readings of {units} {source.unit}{'' if source.unit == 'series' else 's'}, "
        f"{faulty:,} of them faulty; scores as the gateways wrote them.\n"
    )
    checks = [*checks, comparison(held, source)]
    if len(after.times):
        print(afterwards(after, source))
        scored = int((after.active.version == 2).sum())
        checks.append(
            (
                f"{scored:,} of {len(after.times):,} readings afterwards have the new version's score",
                scored == len(after.times),
            )
        )
    for text, holds in checks:
        print(f"{'ok    ' if holds else 'FAILED'}  {text}")
    return all(holds for _, holds in checks)
