#!/usr/bin/env bash
# Installs what is missing and runs every test; the end-to-end ones start real Pulsar brokers of their own.
# `deploy/test.sh NAME` runs the tests whose name contains NAME.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh
need_rust
need protoc=protobuf-compiler cc=build-essential java=openjdk-17-jre-headless mvn=maven curl=curl python3=python3
need mosquitto_pub=mosquitto-clients
need_mosquitto
. deploy/python.sh
. deploy/node.sh
bash deploy/pulsar/pulsar.sh fetch
# Unit and property tests beside the code, then tests/*: each starts its servers on free ports in its own directories.
cargo test --locked --lib --bins --tests -- "$@"
# The larger build, whose models score events (docs/inference.md): what differs.
if [ $# = 0 ]; then
  cargo test --locked --features inference --lib inference
  cargo test --locked --features inference --test inference
  cargo test --locked --features inference --test models_cloud stopped_by_its_gate
  # The example's loop, with the binary that the line above has built. Not by default: it installs 600 MB of Python.
  if [ -n "${TIDEGATE_TEST_ANOMALY:-}" ]; then
    TIDEGATE_BIN="${CARGO_TARGET_DIR:-target}/debug/tidegate" deploy/examples/anomaly/run.sh --quick
  fi
fi
