#!/usr/bin/env python3
"""Trains a model on what the cloud has stored, writes it as ONNX, and may sign and publish it.

  train.py DIR --out model.onnx --metrics metrics.json [--fields load,hall,…] [--recall 0.8]
           [--publish NAME --sign KEY [--version N] [--cloud URL] [--tidegate PATH]]

DIR is the directory of the cloud's sink "files". Every machine.telemetry in it counts that has the fields; it is
faulty when a machine.report says so.

The threshold is chosen in training, not afterwards: each machine is scored by a network that has not seen that
machine (cross-validation, machines divided into three parts), and the highest threshold with the wanted recall on
these scores is taken. Then one network learns from all of it. The threshold travels in the model: the scores are
shifted so that 0.5 is the threshold of every version. A new version needs no new configuration, and "above 0.5"
means the same for the one in use and a candidate.
"""

import argparse
import json
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import lake
from lake import Readings
from simulate import FIELDS
from worth import Count, Each, count, threshold_for

FOLDS = 3
FAULTY_MIN = 30  # readings; below that neither network nor threshold means anything
HIDDEN, NETWORKS = 16, 2
BATCH, STEPS, LEARNING_RATE = 512, 2500, 0.004
ALARM_ABOVE = 0.5  # of every model, after the shift
OPSET, IR_VERSION = 13, 8


@dataclass
class Trained:
    """A network and its threshold, and what that is worth on machines that the scoring network had not seen."""

    network: MLPClassifier
    threshold: float
    crossed: Count

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Unshifted scores: how probable a fault is to the network."""
        return self.network.predict_proba(rows)[:, 1]


def network(rows: np.ndarray, faulty: np.ndarray, seed: int) -> MLPClassifier:
    """One network for raw fields, and the mean of NETWORKS that began from different weights.

    A gateway has no operator for scikit-learn's scalers: mean and deviation go into the weights. Networks with one
    hidden layer put side by side are a wider one, whose output is their mean: what varies from start to start varies
    less in it.
    """
    mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    scaled, labels = (rows - mean) / deviation, faulty.astype(np.int64)
    epochs = max(1, STEPS * BATCH // len(rows))  # as many steps of learning for few readings as for many
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        made = [
            MLPClassifier(
                (HIDDEN,),
                batch_size=min(BATCH, len(rows)),
                max_iter=epochs,
                n_iter_no_change=epochs,
                tol=0.0,
                learning_rate_init=LEARNING_RATE,
                alpha=1e-3,
                random_state=seed * NETWORKS + n,
            ).fit(scaled, labels)
            for n in range(NETWORKS)
        ]
    first, second = (np.concatenate([net.coefs_[layer] for net in made], axis=1 - layer) for layer in (0, 1))
    within = np.concatenate([net.intercepts_[0] for net in made])
    mixed = made[0]
    mixed.coefs_ = [first / deviation[:, None], second / NETWORKS]
    mixed.intercepts_ = [within - (mean / deviation) @ first, sum(net.intercepts_[1] for net in made) / NETWORKS]
    mixed.hidden_layer_sizes = (HIDDEN * NETWORKS,)
    return mixed


def parts(machines: np.ndarray, faulty: np.ndarray, seed: int) -> np.ndarray:
    """Which part each reading is in; a machine is in one part alone, those with faults are spread over all parts."""
    names = np.random.default_rng(seed).permutation(sorted(set(machines)))
    broken = set(machines[faulty])
    dealt = sorted(names, key=lambda name: name not in broken)
    part = {name: n % FOLDS for n, name in enumerate(dealt)}
    return np.array([part[machine] for machine in machines])


def train(
    rows: np.ndarray, faults: np.ndarray, machines: np.ndarray, recall: float, each: Each = "reading", seed: int = 1
) -> Trained:
    """The network of all readings, with the threshold that others chose across machines."""
    faulty = faults >= 0
    part, score = parts(machines, faulty, seed), np.zeros(len(rows))
    for fold in set(part):
        others = part != fold
        if not faulty[others].any():
            raise ValueError("faults are reported of too few machines to divide them")
        score[~others] = network(rows[others], faulty[others], seed).predict_proba(rows[~others])[:, 1]
    threshold = threshold_for(recall, score, faults, each)
    return Trained(network(rows, faulty, seed), threshold, count(score, faults, threshold, each))


def to_model(trained: Trained, columns: int) -> bytes:
    """As ONNX. Output "score": 0.5 · min(p/t, 1) + 0.5 · max((p − t)/(1 − t), 0) of probability p, threshold t."""
    # Without zipmap the probabilities are a tensor.
    example = np.zeros((1, columns), np.float32)
    model = to_onnx(trained.network, example, options={"zipmap": False}, target_opset={"": OPSET, "ai.onnx.ml": 1})
    t = min(max(trained.threshold, 1e-6), 1 - 1e-6)
    half = ALARM_ABOVE
    constants = {
        "column": [0, 1],
        "t": [t],
        "below": [half / t],
        "above": [half / (1 - t)],
        "half": [half],
        "zero": [0],
    }
    for name, values in constants.items():
        shape = [2, 1] if name == "column" else [1, 1]
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, shape, values))
    nodes = [
        ("MatMul", ["probabilities", "column"], "p"),
        ("Mul", ["p", "below"], "low"),
        ("Min", ["low", "half"], "lower"),
        ("Sub", ["p", "t"], "over"),
        ("Mul", ["over", "above"], "high"),
        ("Max", ["high", "zero"], "upper"),
        ("Add", ["lower", "upper"], "score"),
    ]
    model.graph.node.extend(helper.make_node(kind, given, [gives], name=gives) for kind, given, gives in nodes)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1]))
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model.SerializeToString()


def day(time: float) -> str:
    """A day, for people."""
    return str(np.datetime64(int(time), "s").astype("datetime64[D]"))


def publish(options: argparse.Namespace, told: dict[str, str]) -> str | None:
    """Signs and hands the model to the cloud, with what it is worth in its signed manifest; what went wrong."""
    command = [options.tidegate, "model", "publish", options.publish, options.out, "--sign", options.sign]
    command += ["--version", str(options.version)] if options.version else []
    command += ["--parent", str(options.parent)] if options.parent else []
    command += ["--cloud", options.cloud] if options.cloud else []
    for key, value in told.items():
        command += ["--meta", f"{key}={value}"]
    code = subprocess.run(command, check=False).returncode
    return f"tidegate model publish ended with code {code}" if code else None


def in_use(readings: Readings, each: Each) -> dict[str, str]:
    """What the version in use was worth on the readings that it scored: why another one is trained."""
    scored = ~np.isnan(readings.active.score)
    faults = readings.faults[scored]
    if not (faults >= 0).any():
        return {}
    counted = count(readings.active.score[scored], faults, ALARM_ABOVE, each)
    healthy = counted.false_alarms + counted.quiet
    worth = f"recall {counted.recall:.3f}, {counted.false_alarms} false alarms of {healthy}"
    return {"in_use_meanwhile": f"version {readings.active.version[scored].max()}: {worth}"}


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--out", required=True, help="the model")
    parser.add_argument("--metrics", help="what it is worth, as JSON")
    parser.add_argument(
        "--fields", default=",".join(FIELDS), help="of the telemetry's data, in the order of inference.fields"
    )
    parser.add_argument("--recall", type=float, default=0.8, help="share of faulty readings that must be found (0.8)")
    parser.add_argument(
        "--each",
        choices=("reading", "fault"),
        default="reading",
        help="what recall counts: readings, or faults found at all",
    )
    parser.add_argument("--publish", metavar="NAME", help="publish it under this name when it is written")
    parser.add_argument("--sign", metavar="KEY", help="file with the secret key that signs it")
    parser.add_argument("--version", type=int, help="of the model; else the next one")
    parser.add_argument("--parent", type=int, help="version that it takes the place of")
    parser.add_argument("--cloud", help="where the cloud listens (http://127.0.0.1:8900)")
    parser.add_argument("--tidegate", default="tidegate", help="the program (tidegate)")
    options = parser.parse_args()
    if (options.publish is None) != (options.sign is None):
        parser.error("--publish and --sign belong together")
    return options


def main() -> str | None:
    """Reads, trains, writes, publishes; what is wrong, if anything."""
    options = parsed()
    fields = options.fields.split(",")
    readings = lake.readings(lake.once(lake.stored(options.directory)), fields)
    if readings.faulty.sum() < FAULTY_MIN or len(set(readings.machines)) < 2:
        few = f"{int(readings.faulty.sum())} faulty readings of {len(set(readings.machines))} machines"
        return f"{few}: too few to train on"
    try:
        trained = train(readings.rows, readings.faults, readings.machines, options.recall, options.each)
    except ValueError as error:
        return str(error)
    Path(options.out).write_bytes(to_model(trained, len(fields)))
    machines, crossed = len(set(readings.machines)), trained.crossed
    told = {
        "trained_on": f"{len(readings.rows)} readings of {machines} machines, {int(readings.faulty.sum())} faulty",
        "from": day(readings.times.min()),
        "until": day(readings.times.max()),
        "recall": f"{crossed.recall:.3f}",
        "false_alarms": f"{crossed.false_alarms} of {crossed.false_alarms + crossed.quiet}",
    } | in_use(readings, options.each)
    print("\n".join(f"  {key.replace('_', ' ')}: {value}" for key, value in told.items()))
    if options.metrics:
        metrics = told | {"fields": fields, "threshold": trained.threshold, "crossed": asdict(crossed)}
        Path(options.metrics).write_text(json.dumps(metrics, indent=2) + "\n")
    if options.publish:
        return publish(options, told)
    return None


if __name__ == "__main__":
    sys.exit(main())
