"""Tests of what the figures hang on: counting, reports, time, and that the file says what the network says.

run.sh --quick runs them first.
"""

import unittest
from contextlib import redirect_stdout
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime

from lake import Readings, Scored, marked, readings, seconds
from report import judge
from series import FIELDS, Series
from simulate import Factory, events, stretches
from train import ALARM_ABOVE, network, parts, to_model, train
from worth import count, threshold_for


class Counting(unittest.TestCase):
    """Thresholds and counts."""

    def test_a_threshold_has_the_wanted_recall_and_no_higher_one_has(self) -> None:
        chance = np.random.default_rng(1)
        for _ in range(200):
            score, faults = (
                chance.random(300).round(2),
                np.where(chance.random(300) < 0.2, chance.integers(0, 9, 300), -1),
            )
            for each in ("reading", "fault"):
                wanted = float(chance.uniform(0.05, 1))
                threshold = threshold_for(wanted, score, faults, each)
                self.assertGreaterEqual(count(score, faults, threshold, each).recall, wanted - 1e-9)
                higher = score[score > threshold].min()
                self.assertLess(count(score, faults, higher, each).recall, wanted)

    def test_a_count_adds_up(self) -> None:
        counted = count(np.array([0.9, 0.2, 0.8, 0.1]), np.array([0, 0, -1, -1]), 0.5)
        self.assertEqual((counted.found, counted.missed, counted.false_alarms, counted.quiet), (1, 1, 1, 1))
        by_fault = count(np.array([0.9, 0.2, 0.8, 0.1]), np.array([0, 0, -1, -1]), 0.5, "fault")
        self.assertEqual((by_fault.found, by_fault.missed), (1, 0))

    def test_a_report_covers_its_machine_from_its_begin_until_before_its_end(self) -> None:
        times = [f"2026-03-02T0{hour}:00:00Z" for hour in range(5)]
        data = {"from": times[1], "to": times[3], "fault": "jam"}
        at = np.array([seconds(time) for time in times] * 2)
        machines = np.array(["a"] * 5 + ["b"] * 5, dtype=object)
        faults = marked([{"subject": "a", "data": data}, {"subject": "c", "data": data}], machines, at)
        self.assertEqual(faults.tolist(), [-1, 0, 0, -1, -1] + [-1] * 5)


class Training(unittest.TestCase):
    """What is trained, and what is written."""

    def setUp(self) -> None:
        chance = np.random.default_rng(2)
        self.rows = (chance.normal(size=(1200, 6)) * [1, 10, 300, 5, 0.5, 3] + [0, 20, 400, 50, 2, 9]).astype(
            np.float32
        )
        self.faults = np.where(self.rows[:, 4] + self.rows[:, 3] / 20 > 5.2, np.arange(1200) // 100, -1)
        self.machines = np.array([f"m{n % 7}" for n in range(1200)])

    def test_a_machine_is_in_one_part_alone(self) -> None:
        part = parts(self.machines, self.faults >= 0, 1)
        self.assertTrue(all(len(set(part[self.machines == machine])) == 1 for machine in set(self.machines)))
        self.assertEqual(len(set(part)), 3)

    def test_the_file_alarms_where_the_network_is_above_its_threshold(self) -> None:
        trained = train(self.rows, self.faults, self.machines, 0.8)
        session = onnxruntime.InferenceSession(to_model(trained, 6), providers=["CPUExecutionProvider"])
        score = session.run(["score"], {session.get_inputs()[0].name: self.rows})[0][:, 0]
        inner = trained.scores(self.rows)
        clear = np.abs(inner - trained.threshold) > 1e-5
        self.assertTrue(((score > ALARM_ABOVE) == (inner > trained.threshold))[clear].all())
        self.assertTrue((np.diff(score[np.argsort(inner)]) >= -1e-4).all(), "the shift keeps the order")

    def test_the_same_readings_give_the_same_network(self) -> None:
        one, other = (network(self.rows, self.faults >= 0, 1).predict_proba(self.rows) for _ in range(2))
        self.assertTrue(np.array_equal(one, other))


class Judging(unittest.TestCase):
    """The promise."""

    def judged(self, new: np.ndarray) -> bool:
        """Whether the promise holds for these scores, beside an old model that cannot tell."""
        chance = np.random.default_rng(3)
        faults = np.where(chance.random(2000) < 0.1, 0, -1)
        scored = [
            Scored(np.full(2000, n + 1), score)
            for n, score in enumerate((chance.random(2000), new + 0.1 * (faults >= 0)))
        ]
        machines, times = np.full(2000, "a", dtype=object), np.arange(2000.0) * 600
        held = Readings(machines, times, np.zeros((2000, 1), np.float32), faults, scored[0], scored[1])
        with redirect_stdout(StringIO()):
            return judge(held, readings([], ["load"]), Factory(1, quick=False), [("always", True)])

    def test_the_promise_holds_for_a_better_model_and_not_for_one_that_is_no_better(self) -> None:
        chance = np.random.default_rng(4)
        self.assertTrue(self.judged(0.42 + 0.04 * chance.random(2000)))
        self.assertFalse(self.judged(chance.random(2000)))
        self.assertFalse(self.judged(np.full(2000, np.nan)), "scores that are not there")


class Sources(unittest.TestCase):
    """The factory and real series."""

    def test_a_seed_repeats_and_ids_are_unique(self) -> None:
        stretch = stretches(quick=True)["heldout"]
        once = list(events(3, stretch))
        self.assertEqual(once, list(events(3, stretch)))
        self.assertEqual(len({(event["source"], event["id"]) for event in once}), len(once))
        self.assertTrue(all("fault" not in event["data"] for event in once if event["type"] == "machine.telemetry"))

    def test_machines_held_out_are_in_no_training(self) -> None:
        story = stretches()
        held, others = (
            {event["subject"] for name in names for event in events(1, story[name])}
            for names in (("heldout", "after"), ("bench", "fleet"))
        )
        self.assertFalse(held & others)

    def test_a_series_is_divided_by_time_and_looks_back_only(self) -> None:
        with TemporaryDirectory() as directory:
            path, labels = Path(directory, "a.csv"), Path(directory, "labels.json")
            times = [datetime(2026, 1, 1) + timedelta(hours=n) for n in range(1000)]
            lines = [f"{time},{n % 24}" for n, time in enumerate(times)]
            labels.write_text('{"x/a.csv": [["2026-01-05 00:00:00", "2026-01-06 00:00:00"]]}')
            path.write_text("\n".join(["timestamp,value", *lines]))
            before = [e for name in ("bench", "fleet", "heldout") for e in Series([path], labels).events(name)]
            path.write_text("\n".join(["timestamp,value", *lines[:-1], f"{times[-1]},9999"]))
            after = [e for name in ("bench", "fleet", "heldout") for e in Series([path], labels).events(name)]
        telemetry = [event for event in before if event["type"] == "machine.telemetry"]
        self.assertEqual(len(telemetry), 1000 - 12)
        self.assertEqual([e["time"] for e in telemetry], sorted(e["time"] for e in telemetry))
        self.assertEqual(set(telemetry[0]["data"]), set(FIELDS))
        self.assertEqual(before[:-1], after[:-1], "the last value changes the last reading alone")
        self.assertEqual(sum(event["type"] == "machine.report" for event in before), 1)


if __name__ == "__main__":
    unittest.main()
