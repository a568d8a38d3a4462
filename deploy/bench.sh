#!/usr/bin/env bash
# Runs the benches against real servers and prints their ratios; benches/README.md says what they mean.
# usage: deploy/bench.sh [http_ingest|drain] [-- options of the bench]
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh
need_rust
need protoc=protobuf-compiler cc=build-essential java=openjdk-17-jre-headless mvn=maven curl=curl go=golang-go
which=${1:-all}
[ $# -gt 0 ] && shift
[ "${1:-}" = -- ] && shift
if [ "$which" = http_ingest ] || [ "$which" = all ]; then
  cargo bench --bench http_ingest -- "$@"
fi
if [ "$which" = drain ] || [ "$which" = all ]; then
  bash deploy/pulsar/pulsar.sh fetch
  mkdir -p .work
  (cd benches/official-client && go build -o ../../.work/official-client .)
  TIDEGATE_BENCH_CLIENT="$PWD/.work/official-client" cargo bench --bench drain -- "$@"
fi
