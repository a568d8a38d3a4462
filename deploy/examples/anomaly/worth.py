"""Counts what a model is worth: false alarms and misses at a threshold, and thresholds for a wanted recall.

Recall counts faulty readings, or faults that are found at least once while they last: `each` says which of the two.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Each = Literal["reading", "fault"]


@dataclass(frozen=True)
class Count:
    """Faulty readings (or faults) that are found or missed; healthy readings with an alarm and without."""

    found: int
    missed: int
    false_alarms: int
    quiet: int

    @property
    def recall(self) -> float:
        """Share that is found."""
        return self.found / max(1, self.found + self.missed)


def to_find(score: np.ndarray, faults: np.ndarray, each: Each) -> np.ndarray:
    """Scores of what is to be found: of each faulty reading, or the highest of each fault (-1: healthy)."""
    if each == "reading":
        return score[faults >= 0]
    return np.array([score[faults == fault].max() for fault in np.unique(faults[faults >= 0])])


def count(score: np.ndarray, faults: np.ndarray, threshold: float, each: Each = "reading") -> Count:
    """Above the threshold is an alarm, as on the gateway."""
    wanted, healthy = to_find(score, faults, each) > threshold, score[faults < 0] > threshold
    return Count(int(wanted.sum()), int((~wanted).sum()), int(healthy.sum()), int((~healthy).sum()))


def threshold_for(recall: float, score: np.ndarray, faults: np.ndarray, each: Each = "reading") -> float:
    """The highest threshold with at least this recall, midway between two scores so that no rounding crosses it."""
    wanted = np.sort(to_find(score, faults, each))[::-1]
    least = wanted[max(0, int(np.ceil(recall * len(wanted) - 1e-9)) - 1)]
    below = score[score < least]
    return float((least + below.max()) / 2) if len(below) else float(least) - 1e-6


def at_recall(recall: float, score: np.ndarray, faults: np.ndarray, each: Each = "reading") -> Count:
    """What it counts at the threshold for this recall on these very readings: for comparing models only."""
    return count(score, faults, threshold_for(recall, score, faults, each), each)


def change(before: int, after: int) -> str:
    """Change in percent, as tables show it."""
    return f"{100 * (after / before - 1):+.0f} %" if before else "-"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns under one another: the first to the left, the others to the right."""
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]

    def line(row: list[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])
