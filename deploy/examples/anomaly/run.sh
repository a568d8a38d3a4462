#!/usr/bin/env bash
# From telemetry to a better model on the gateways, and what it is worth. `deploy/examples/anomaly/run.sh --help` tells more.
set -euo pipefail
files=()
# Files are named from where this was called.
for argument in "$@"; do
  if [[ $argument != -* && -e $argument ]]; then argument=$(realpath -- "$argument"); fi
  files+=("$argument")
done
set -- ${files[@]+"${files[@]}"}
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
. deploy/need.sh

for argument in "$@"; do
  [ "$argument" = -h ] || [ "$argument" = --help ] || continue
  cat <<'HELP'
usage: deploy/examples/anomaly/run.sh [--seed N] [--seeds N] [--quick] [--keep]
       deploy/examples/anomaly/run.sh --data FILE.csv … [--labels FILE.json] [--recall SHARE] [--keep]

Builds Tidegate with inference, starts a Pulsar broker, a cloud process and three gateways on free ports in a temporary
directory, sends telemetry of machines with faults through the gateways, trains a model on what the cloud has stored, rolls it
out beside the one in use and then in its place, and counts false alarms and misses of both on telemetry that no training has
seen, from the scores that the gateways wrote. Exit code 0 only if everything holds that it promises.

  --data FILE…   replay real series (timestamp,value) instead of the simulated factory; nothing is promised of the result
  --labels FILE  their windows of anomalies (default: anomaly_windows.json or combined_windows.json beside the first file)
  --recall SHARE share of the faulty readings that a model is to find (0.8)
  --seed N       another simulated factory (1)
  --seeds N      afterwards the comparison without gateways for so many factories; 0: none (3)
  --quick        a small factory and no further ones: shows that the loop runs, promises nothing of the models
  --keep         leave the directory with configurations, logs, models and events

TIDEGATE_BIN names a binary with inference that is used instead of building one.
HELP
  exit 0
done

need java=openjdk-17-jre-headless mvn=maven curl=curl python3=python3
if [ -z "${TIDEGATE_BIN:-}" ]; then
  need_rust
  need protoc=protobuf-compiler cc=build-essential
  echo "anomaly: building (the first time takes some minutes)"
  cargo build --locked --release --features inference --bin tidegate
  TIDEGATE_BIN=${CARGO_TARGET_DIR:-target}/release/tidegate
fi
if ! [ -x "$TIDEGATE_BIN" ]; then
  echo "anomaly: TIDEGATE_BIN names $TIDEGATE_BIN, which is no program" >&2
  exit 64
fi
TIDEGATE_BIN=$(realpath -- "$TIDEGATE_BIN")
export TIDEGATE_BIN
# Small networks learn faster on one thread than on two that wait for each other, above all beside a broker.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
. deploy/examples/anomaly/python.sh
for argument in "$@"; do
  if [ "$argument" = --quick ]; then "$anomaly_python" deploy/examples/anomaly/checks.py; fi
done
bash deploy/pulsar/pulsar.sh fetch
exec "$anomaly_python" deploy/examples/anomaly/loop.py "$@"
