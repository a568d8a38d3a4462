#!/usr/bin/env bash
# Sourced: a Python with what the example needs (600 MB, most of it scikit-learn's and onnxruntime's libraries), in a directory of
# its own; made again when requirements.txt changes. Sets anomaly_python.
anomaly_venv="$PWD/.work/anomaly"
anomaly_wants=deploy/examples/anomaly/requirements.txt
if ! cmp -s "$anomaly_wants" "$anomaly_venv/installed"; then
  if ! python3 -c 'import venv, ensurepip' >/dev/null 2>&1; then
    need_package python3-venv
  fi
  echo "anomaly: installing scikit-learn, onnx and others into $anomaly_venv (once, about a minute)"
  rm -rf "$anomaly_venv"
  python3 -m venv "$anomaly_venv"
  "$anomaly_venv/bin/pip" install -q -r "$anomaly_wants"
  cp "$anomaly_wants" "$anomaly_venv/installed"
fi
anomaly_python="$anomaly_venv/bin/python"
