#!/usr/bin/env python3
"""Makes the models of this directory, and expected.json with what scikit-learn says of some rows.

Needs the packages of deploy/examples/anomaly/requirements.txt. The tests use the files as they are committed.
"""

import json
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier

HERE = pathlib.Path(__file__).parent


def save(name, model):
    model.producer_version = ""
    onnx.checker.check_model(model)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())


def graph(name, nodes, rows, initializers=()):
    """A model with rows of two numbers as input x and one number each as output score."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 2])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [rows, 1])
    made = helper.make_graph(nodes, name, [given], [score], list(initializers))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    save(name, model)


def linear(name, rows, first, second):
    """score = first * x0 + second * x1"""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [first, second])
    graph(name, [helper.make_node("MatMul", ["x", "w"], ["score"])], rows, [weights])


linear("sum", "N", 1.0, 1.0)
linear("one-row", 1, 1.0, 1.0)

weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [1.0, 1.0])
nodes = [helper.make_node("MatMul", ["x", "w"], ["sum"]), helper.make_node("Log", ["sum"], ["score"])]
graph("log", nodes, "N", [weights])  # NaN below 0, infinite at 0

random = np.random.default_rng(7)
rows = random.normal(size=(600, 2)).astype(np.float32)
labels = (rows[:, 0] * rows[:, 1] > 0.3).astype(np.int64)
forest = RandomForestClassifier(n_estimators=6, max_depth=4, random_state=7).fit(rows, labels)
network = MLPClassifier((8,), random_state=7, max_iter=2000).fit(rows, labels)
asked = random.normal(size=(20, 2)).astype(np.float32)
expected = {"rows": asked.tolist()}
for name, classifier in {"forest": forest, "network": network}.items():
    model = to_onnx(classifier, rows[:1], options={id(classifier): {"zipmap": False}}, target_opset=13)
    save(name, model)
    expected[name] = classifier.predict_proba(asked)[:, 1].tolist()
(HERE / "expected.json").write_text(json.dumps(expected) + "\n")
print({path.name: path.stat().st_size for path in sorted(HERE.glob("*.onnx"))})
