#!/usr/bin/env bash
# One edge, one cloud process, a real Pulsar broker, 50 devices; the broker is stopped and the edge killed in the
# middle; then every acknowledged event is counted. `deploy/demo.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<'HELP'
usage: deploy/demo.sh [--events N] [--devices N] [--rate N] [--data FILE.csv …] [--keep]

Builds Tidegate, starts a Pulsar broker of its own on free ports, provisions it, starts an edge and a cloud process,
lets 50 devices post 20,000 events, stops the broker and kills the edge in the middle, starts both again, and ends with
a table. Exit code 0 only if nothing is missing, double, altered or out of order.

  --events N     events in all (20000)
  --devices N    devices (50)
  --rate N       events per second of all devices together (1000)
  --data FILE…   replay real readings from CSV files with a header line (instead of simulated ones)
  --keep         leave everything running and show what to try next
HELP
  exit 0
fi

need_rust
need protoc=protobuf-compiler cc=build-essential java=openjdk-17-jre-headless mvn=maven curl=curl
echo "demo: building (the first time takes some minutes)"
cargo build --locked --release --bin tidegate --example demo
bash deploy/pulsar/pulsar.sh fetch
exec "${CARGO_TARGET_DIR:-target}/release/examples/demo" --tidegate "${CARGO_TARGET_DIR:-target}/release/tidegate" "$@"
