"""The comparison over several seeds, without gateways: how much of the result is luck, and what it comes from.

  sweep.py [--first 1] [--seeds 5] [--recall 0.8]

Each seed is another factory. Every model is trained by the same code; only what it has seen differs. All are counted
on the same held-out readings, of machines and weeks that none has seen: the new model at the threshold that it
brought with it, the others at the threshold that gives them the same recall on the held-out readings, which they
would not have known.
"""

import argparse
from datetime import datetime
from typing import NamedTuple

import numpy as np

from simulate import FIELDS, Stretch, events, stretches
from train import network, train
from worth import at_recall, count, table


class Seen(NamedTuple):
    """Readings without gateways in between."""

    rows: np.ndarray
    faults: np.ndarray
    machines: np.ndarray


def seen(seed: int, stretch: Stretch) -> Seen:
    """What the cloud would have stored of a stretch."""
    rows, machines, times, reports = [], [], [], []
    for event in events(seed, stretch):
        if event["type"] == "machine.report":
            reports.append((event["subject"], event["data"]))
            continue
        rows.append([event["data"][name] for name in FIELDS])
        machines.append(event["subject"])
        times.append(event["time"])
    at, who, faults = np.array(times), np.array(machines), np.full(len(rows), -1)
    for number, (machine, data) in enumerate(reports):
        faults[(who == machine) & (at >= data["from"]) & (at < data["to"])] = number
    return Seen(np.array(rows, np.float32), faults, who)


def of_machines(data: Seen, machines: int) -> Seen:
    """The first so many machines."""
    mine = np.isin(data.machines, sorted(set(data.machines))[:machines])
    return Seen(data.rows[mine], data.faults[mine], data.machines[mine])


def joined(first: Seen, second: Seen) -> Seen:
    """Both."""
    return Seen(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def of_seed(seed: int, recall: float) -> dict[str, int | float]:
    """False alarms of each model, the new one's recall at its own threshold, and how many readings were healthy."""
    story = stretches()
    bench, fleet, held = (seen(seed, story[name]) for name in ("bench", "fleet", "heldout"))
    both = joined(bench, fleet)
    new = train(both.rows, both.faults, both.machines, recall)
    counted = count(new.scores(held.rows), held.faults, new.threshold)
    old = {"bench, 3 machines": bench} | {f"fleet, {n} machines": of_machines(fleet, n) for n in (3, 6, 12)}
    figures: dict[str, int | float] = {
        name: at_recall(
            counted.recall, network(data.rows, data.faults >= 0, 1).predict_proba(held.rows)[:, 1], held.faults
        ).false_alarms
        for name, data in old.items()
    }
    return figures | {
        "bench and fleet, 3 + 24 machines": counted.false_alarms,
        "recall": counted.recall,
        "healthy": int((held.faults < 0).sum()),
    }


def main() -> None:
    """Prints a table, means with the spread from seed to seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seeds", type=int, default=5, help="how many, two at least (5)")
    parser.add_argument("--recall", type=float, default=0.8)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: a spread needs two at least")
    begun = datetime.now()
    results = []
    for seed in range(options.first, options.first + options.seeds):
        results.append(of_seed(seed, options.recall))
        print(f"  factory {seed} after {(datetime.now() - begun).seconds} s", flush=True)
    new = [name for name in results[0] if name.startswith("bench and")][0]
    rows = []
    for name in [key for key in results[0] if key not in ("recall", "healthy")]:
        share = np.array([100 * r[name] / r["healthy"] for r in results])
        down = np.array([100 * (r[new] / r[name] - 1) for r in results])
        rows.append(
            [
                name,
                f"{share.mean():.2f} ± {share.std(ddof=1):.2f} %",
                "" if name == new else f"{down.mean():+.0f} % ({down.min():+.0f} … {down.max():+.0f})",
            ]
        )
    recall = np.array([r["recall"] for r in results])
    spread = f"{recall.mean():.3f} ± {recall.std(ddof=1):.3f}"
    print(f"{options.seeds} factories; recall of the new model: {spread}; means ± deviation, and (best … worst)\n")
    print(table(["what a model had seen", "healthy readings with an alarm", "the new one against it"], rows))


if __name__ == "__main__":
    main()
