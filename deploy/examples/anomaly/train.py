#!/usr/bin/env python3
"""Trains a model on what the cloud has stored, and says what it is worth on machines that it has not seen.

  train.py DIR… --out model.onnx --metrics metrics.json [--old old.onnx] [--first-machines 3]
           [--publish NAME --sign KEY [--tidegate PATH]]

DIR… are directories of the cloud's sink "files" (….ndjson.zst, also within). Only events with a `label` in their data
count: "ok", or the name of a fault. Machines, not events, are divided: some train, some choose the threshold, the rest is
held out and only measured. With --old the model in use is measured on the same held-out machines.

The metrics are honest in this way: the threshold of each model is chosen on the machines for that, as the highest with the
wanted recall there, and then counted on the held-out ones, where recall comes out as it comes out. Because the two recalls
then differ a little, the comparison "at equal recall" also gives each model the highest threshold with the wanted recall on
the held-out machines themselves; that figure is for comparing models, not for promising anything.
"""

import argparse
import hashlib
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import onnxruntime
import zstandard
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier

FIELDS = ("temperature", "vibration", "current", "load")
OUTPUT, COLUMN = "probabilities", 1  # of the ONNX model: inference.output, inference.column


def read(directories, event_type):
    """Machine, fields and label of every labelled event that was stored."""
    seen, machines, rows, labels = set(), [], [], []
    for directory in directories:
        # A file that still grows is read by the cloud alone.
        for path in sorted(pathlib.Path(directory).rglob("*.ndjson.zst")):
            with open(path, "rb") as file:
                text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
                for line in text:
                    event = json.loads(line)
                    data, name = event.get("data"), (event["source"], event["id"])
                    if event["type"] != event_type or not isinstance(data, dict) or "label" not in data or name in seen:
                        continue
                    if not all(isinstance(data.get(field), (int, float)) for field in FIELDS):
                        continue
                    seen.add(name)
                    machines.append(event["subject"])
                    rows.append([data[field] for field in FIELDS])
                    labels.append(data["label"] != "ok")
    if not rows:
        sys.exit(f"no event of type {event_type} with a label and the fields {', '.join(FIELDS)} was found")
    return np.array(machines), np.array(rows, np.float32), np.array(labels)


def part_of(machine):
    """Of ten machines six train, two choose the threshold, two are held out; always the same ones."""
    tenth = hashlib.sha256(machine.encode()).digest()[0] % 10
    return "train" if tenth < 6 else "choose" if tenth < 8 else "held out"


def scores(model, rows):
    """What a gateway would get: the ONNX model's own output."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return session.run([OUTPUT], {given.name: rows})[0][:, COLUMN]


def threshold_for(recall, score, faulty):
    """The highest threshold above which at least `recall` of the faulty events are."""
    of_faults = np.sort(score[faulty])[::-1]
    least = of_faults[int(np.ceil(recall * len(of_faults))) - 1]
    return float(np.nextafter(np.float32(least), np.float32(-np.inf)))


def counted(score, faulty, threshold):
    """False alarms and misses, as events."""
    alarm = score > threshold
    found, missed = int((alarm & faulty).sum()), int((~alarm & faulty).sum())
    return {
        "threshold": threshold, "events": len(score), "faulty": int(faulty.sum()), "found": found, "missed": missed,
        "recall": round(found / max(1, found + missed), 4), "false_alarms": int((alarm & ~faulty).sum()),
    }


def measured(model, parts, recall):
    """What a model is worth."""
    (choose_rows, choose_faulty), (held_rows, held_faulty) = parts["choose"], parts["held out"]
    chosen = threshold_for(recall, scores(model, choose_rows), choose_faulty)
    score = scores(model, held_rows)
    equal = threshold_for(recall, score, held_faulty)
    return {"chosen_threshold": counted(score, held_faulty, chosen), "equal_recall": counted(score, held_faulty, equal)}


def trained(rows, faulty):
    """A model as ONNX, of operators that the gateway has: trees and forests are, scikit-learn's scalers are not."""
    forest = RandomForestClassifier(
        n_estimators=60, max_depth=9, min_samples_leaf=5, class_weight="balanced", random_state=1, n_jobs=1
    )
    classifier = forest.fit(rows, faulty.astype(np.int64))
    # Without zipmap the output is a tensor.
    return to_onnx(classifier, rows[:1], options={"zipmap": False}, target_opset=13).SerializeToString()


def main():
    """Reads the options and does it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", metavar="DIR")
    parser.add_argument("--out", required=True, help="the model")
    parser.add_argument("--metrics", required=True, help="what it is worth, as JSON")
    parser.add_argument("--old", help="the model in use, to be measured beside it")
    parser.add_argument("--first-machines", type=int, help="train on so many machines only")
    parser.add_argument("--type", default="press.telemetry", help="type of the events (press.telemetry)")
    parser.add_argument("--recall", type=float, default=0.9, help="share of faulty events that must be found (0.9)")
    parser.add_argument("--publish", metavar="NAME", help="publish it under this name when it is written")
    parser.add_argument("--sign", metavar="KEY", help="file with the secret key that signs it")
    parser.add_argument("--tidegate", default="tidegate", help="the program (tidegate)")
    options = parser.parse_args()
    if (options.publish is None) != (options.sign is None):
        parser.error("--publish and --sign belong together")

    machines, rows, faulty = read(options.directories, options.type)
    part = np.array([part_of(machine) for machine in machines])
    parts = {name: (rows[part == name], faulty[part == name]) for name in ("train", "choose", "held out")}
    for name, (_, labels) in parts.items():
        if labels.sum() < 20 or (~labels).sum() < 20:
            sys.exit(f"the machines to {name} have fewer than 20 faulty or healthy events: more data is needed")
    training = sorted(set(machines[part == "train"]))[: options.first_machines]
    chosen = np.isin(machines, training)
    model = trained(rows[chosen], faulty[chosen])

    metrics = {
        "fields": FIELDS, "recall_wanted": options.recall, "trained_on_machines": len(training),
        "trained_on_events": int(chosen.sum()), "held_out_machines": len(set(machines[part == "held out"])),
        "new": measured(model, parts, options.recall),
    }
    if options.old:
        metrics["old"] = measured(pathlib.Path(options.old).read_bytes(), parts, options.recall)
        before, after = (metrics[which]["equal_recall"]["false_alarms"] for which in ("old", "new"))
        metrics["false_alarms_down"] = round(1 - after / before, 4) if before else None
    pathlib.Path(options.out).write_bytes(model)
    pathlib.Path(options.metrics).write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))
    if options.publish:
        publish(options, metrics)


def publish(options, metrics):
    """Hands the model to the cloud, with what it is worth in its signed manifest."""
    held = metrics["new"]["chosen_threshold"]
    told = {"trained_on": f"{metrics['trained_on_machines']} machines", "recall": held["recall"],
            "false_alarms": f"{held['false_alarms']} of {held['events'] - held['faulty']}"}
    command = [options.tidegate, "model", "publish", options.publish, options.out, "--sign", options.sign]
    for key, value in told.items():
        command += ["--meta", f"{key}={value}"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
