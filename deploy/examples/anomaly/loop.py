"""The loop as a whole: telemetry, training, publication, shadow, switch, and the count of what the new model is worth.

run.sh calls this with everything installed; run.sh --help lists the options. README.md tells the story.
"""

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import onnxruntime

import lake
import report
from gateway import Refused, Sender, batches
from plant import ALARM_ABOVE, GATEWAYS, GROUP, MODEL, Failed, Plant, program, wait
from series import Series
from simulate import Factory

HERE = Path(__file__).resolve().parent
FETCH_SECONDS = 60
WAVES, SOAK, ROLLOUT_TIME = "33%,100%", "1s", "5min"  # one of three gateways, then all
TRIAL_EVENTS, TRIAL_SECONDS = 20, 0.2  # of each gateway while a roll-out is under way: gates judge what is scored
SCORE_TOLERANCE = 1e-4  # between the gateway's arithmetic and onnxruntime's

Event = dict[str, Any]
Source = Factory | Series


def say(text: str) -> None:
    """A line of progress."""
    print(f"anomaly {time.strftime('%H:%M:%S')}  {text}", flush=True)


def gateway_of(event: Event) -> int:
    """Each machine is connected to one gateway."""
    digits = "".join(c for c in event["subject"] if c.isdigit())
    return int(digits or 0) % len(GATEWAYS)


class Trial:
    """Telemetry that goes on while a roll-out is under way, on a thread of its own. Use it with `with`."""

    def __init__(self, senders: list[Sender], events: Iterator[Event]) -> None:
        self.senders, self.events, self.sent = senders, events, 0
        self.over, self.error = threading.Event(), ""
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Trial":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        if self.error:
            raise Failed(self.error)

    def _run(self) -> None:
        while not self.over.wait(TRIAL_SECONDS):
            mine: list[list[Event]] = [[] for _ in self.senders]
            for event in islice(self.events, TRIAL_EVENTS * len(mine)):
                mine[gateway_of(event)].append(event)
            try:
                self.sent += sum(sender.post(batch) for sender, batch in zip(self.senders, mine, strict=True) if batch)
            except Refused as error:
                self.error = str(error)
                return


def endless(source: Source) -> Iterator[Event]:
    """Telemetry of the stretch for roll-outs, again and again under other ids."""
    for again in count():
        for event in source.events(source.trial):
            if event["type"] == lake.TELEMETRY:
                yield event | {"id": f"trial-{again}-{event['id']}"}


class Loop:
    """The steps, in their order."""

    def __init__(self, plant: Plant, source: Source, options: argparse.Namespace) -> None:
        self.plant, self.source, self.options = plant, source, options
        self.sent, self.trial = 0, endless(source)
        self.senders = [Sender(process.url) for process in plant.gateways.values()]

    def send(self, stretch: str) -> None:
        """Sends a stretch through all gateways at once and waits until the cloud has stored it."""
        say(self.source.tell(stretch))
        begun = time.monotonic()
        mine: list[list[Event]] = [[] for _ in self.senders]
        for event in self.source.events(stretch):
            mine[gateway_of(event)].append(event)
        with ThreadPoolExecutor(len(mine)) as pool:
            accepted = sum(pool.map(self._send, self.senders, mine))
        self.sent += accepted
        self.plant.wait_stored("telemetry", self.sent)
        seconds = time.monotonic() - begun
        say(f"  {accepted:,} events are through and stored, {seconds:.0f} s, {accepted / seconds:,.0f} a second")

    @staticmethod
    def _send(sender: Sender, events: list[Event]) -> int:
        return sum(sender.post(batch) for batch in batches(events))

    def train(self, version: int) -> None:
        """Trains on all that is stored so far, signs, publishes."""
        say(f"training version {version} on what the cloud has stored, signing, publishing")
        arguments = [str(self.plant.lake / "telemetry"), "--out", str(self.model(version))]
        arguments += ["--fields", ",".join(self.source.fields)]
        arguments += ["--recall", str(self.options.recall), "--each", self.source.each]
        arguments += ["--publish", MODEL, "--sign", str(self.plant.key), "--version", str(version)]
        arguments += ["--parent", str(version - 1)] if version > 1 else []
        arguments += ["--cloud", self.plant.cloud.url, "--tidegate", str(self.plant.program)]
        if call("train.py", *arguments) != 0:
            raise Failed(f"training of version {version} failed, see above")

    def model(self, version: int) -> Path:
        """The file of a version."""
        return self.plant.directory / f"v{version}.onnx"

    def roll_out(self, version: int, shadow: bool) -> None:
        """Brings the version to one gateway, then to all, while telemetry goes on; waits until each scores with it."""
        role, begun = "shadow" if shadow else "active", time.monotonic()
        gates = self.source.gates[role] if version > 1 else ()  # the first one has nothing to be better than
        how = f"{'beside the one in use (shadow)' if shadow else 'for use'}, {' '.join(gates) or 'without gates'}"
        say(f"rolling out version {version}, {how}")
        order = ["model", "rollout", MODEL, str(version), *(["--shadow"] if shadow else []), "--group", GROUP]
        order += ["--waves", WAVES, "--soak", SOAK, *gates, "--wait", "--timeout", ROLLOUT_TIME]
        # Without gates nobody waits for events; and what comes before a training would be learnt without its reports.
        with Trial(self.senders, self.trial if gates else iter(())) as trial:
            self.plant.tidegate(*order, "--cloud", self.plant.cloud.url)
        self.sent += trial.sent
        for gateway, process in self.plant.gateways.items():
            scores = partial(self.scores_with, gateway, role, version)
            wait(f"version {version} on {gateway} ({role})", FETCH_SECONDS, scores, process)
        seconds = time.monotonic() - begun
        say(f"  done after {seconds:.1f} s, in which {trial.sent:,} more events came; all gateways score with it")

    def scores_with(self, gateway: str, role: str, version: int) -> bool:
        """Whether a gateway has loaded the version."""
        return self.plant.metric(gateway, "tidegate_inference_model_version", role=role) == version

    def run(self) -> bool:
        """From the first model to the comparison; whether all claims hold."""
        self.send("bench")
        self.train(1)
        self.roll_out(1, shadow=False)
        self.send("fleet")
        self.train(2)
        self.roll_out(2, shadow=True)
        self.send("heldout")
        self.roll_out(2, shadow=False)
        if self.source.tell("after"):
            self.send("after")
        return self.compare()

    def compare(self) -> bool:
        """Reads what the gateways wrote, and judges."""
        self.plant.wait_stored("telemetry", self.sent)
        events = list(lake.stored(self.plant.lake / "telemetry"))
        fields = list(self.source.fields)
        held, after = (lake.readings(events, fields, begins) for begins in ("heldout-", "after-"))
        return report.judge(held, after, self.source, [*self.checks(events, held), self.alarms(events)])

    def alarms(self, events: list[Event]) -> report.Check:
        """Whether each reading above the threshold has made an alarm."""
        scored = lake.readings(events, list(self.source.fields)).active.score
        above = int((scored > ALARM_ABOVE).sum())
        self.plant.wait_stored("alarms", above)
        alarms = sum(1 for _ in lake.stored(self.plant.lake / "alarms"))
        return f"{alarms:,} alarms are stored for {above:,} readings above the threshold", alarms == above

    def checks(self, events: list[Event], held: lake.Readings) -> list[report.Check]:
        """What must hold whatever the models are worth."""
        different = sum(1 for _ in lake.once(events))
        both = (held.active.version == 1) & (held.shadow.version == 2)
        checks = [
            (f"{different:,} of {self.sent:,} events are stored, once each", different == len(events) == self.sent),
            (f"{both.sum():,} of {len(both):,} held-out readings have the scores of both versions", bool(both.all())),
        ]
        for version, scored in ((1, held.active), (2, held.shadow)):
            off = float(np.abs(self.offline(version, held.rows) - scored.score)[both].max(initial=0.0))
            said = f"scores of version {version} by gateways and by onnxruntime differ by {off:.1g} at most"
            checks.append((said, off <= SCORE_TOLERANCE))
        return checks

    def offline(self, version: int, rows: np.ndarray) -> np.ndarray:
        """What onnxruntime says."""
        session = onnxruntime.InferenceSession(self.model(version).read_bytes(), providers=["CPUExecutionProvider"])
        return session.run(["score"], {session.get_inputs()[0].name: rows})[0][:, 0]


class Parser(argparse.ArgumentParser):
    """Ends with the code that Tidegate has for wrong usage."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong."""
        self.exit(64, f"anomaly: {message} (run.sh --help)\n")


def parsed() -> argparse.Namespace:
    """The options; run.sh --help explains them."""
    parser = Parser(prog="run.sh", add_help=False)
    parser.add_argument("--data", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--labels", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recall", type=float, default=0.8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.seeds == 1:
        parser.error("--seeds: a spread needs two at least, or 0 for none")
    if options.labels and not options.data:
        parser.error("--labels belongs to --data")
    return options


def interrupted(number: int, _: FrameType | None) -> None:
    """A signal ends the example in order."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def call(script: str, *arguments: str) -> int:
    """Runs another script of the example. Ctrl-C reaches this one alone, which then ends the other."""
    return subprocess.run(
        [sys.executable, str(HERE / script), *arguments], check=False, start_new_session=True
    ).returncode


def carried_out(source: Source, options: argparse.Namespace) -> bool:
    """The loop, with real processes."""
    say("starting a Pulsar broker, a cloud process and 3 gateways")
    with Plant(program(), source.fields, options.keep) as plant:
        return Loop(plant, source, options).run()


def swept(options: argparse.Namespace) -> bool:
    """The same comparison for other seeds, without processes; prints its own table."""
    say(f"the same comparison without gateways, {options.seeds} other factories")
    seeds = ["--first", str(options.seed + 1), "--seeds", str(options.seeds)]
    return call("sweep.py", *seeds, "--recall", str(options.recall)) == 0


def main() -> int:
    """Runs it; 0: all claims hold, 1: one does not, 64: usage, 70: it could not be carried out, 130: interrupted."""
    options = parsed()
    signal.signal(signal.SIGTERM, interrupted)
    try:
        source: Source = Series(options.data, options.labels) if options.data else Factory(options.seed, options.quick)
    except (ValueError, OSError) as error:
        print(f"anomaly: {error}", file=sys.stderr)
        return 64
    try:
        held = carried_out(source, options)
        if options.seeds and not options.quick and not options.data:
            held &= swept(options)
    except (Failed, Refused, ValueError, OSError) as error:
        print(f"anomaly: {error}", file=sys.stderr)
        return 70
    except KeyboardInterrupt:
        print("anomaly: interrupted; everything was stopped", file=sys.stderr)
        return 130
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
