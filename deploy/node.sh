#!/usr/bin/env bash
# Sourced: MQTT.js, one of the clients that the MQTT listener is tested with. Sets TIDEGATE_TEST_NODE. The version is also in
# tests/support/node.rs.
node="$PWD/.work/node"
if ! [ -e "$node/node_modules/mqtt/package.json" ]; then
  need node=nodejs npm=npm
  npm install --silent --no-audit --no-fund --prefix "$node" mqtt@5.16.0
fi
export TIDEGATE_TEST_NODE="$node"
