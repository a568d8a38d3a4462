#!/usr/bin/env bash
# Sourced: a Python with Pulsar's official client, the tests' independent witness, and Eclipse Paho's of MQTT. Sets
# TIDEGATE_TEST_PYTHON.
venv="$PWD/.work/python"
if ! "$venv/bin/python" -c 'import pulsar, paho.mqtt.client' >/dev/null 2>&1; then
  if ! python3 -c 'import venv, ensurepip' >/dev/null 2>&1; then
    need_package python3-venv
  fi
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q 'pulsar-client>=3.5,<4' 'paho-mqtt>=2.1,<3'
fi
export TIDEGATE_TEST_PYTHON="$venv/bin/python"
