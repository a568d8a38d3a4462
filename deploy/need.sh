#!/usr/bin/env bash
# Sourced by the other scripts: makes sure that what they call is there. As root on Debian or Ubuntu it installs
# the missing packages; elsewhere it says what to install.

# need_package PACKAGE …: installs them, or says that they are missing; for what has no command to look for.
need_package() {
  need "${@/#/a-command-that-never-exists=}"
}

# need COMMAND=PACKAGE …: every COMMAND must be found; the PACKAGEs of those that are not are installed.
need() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian packages: ${missing[*]}" >&2
    apt-get update -q >/dev/null 2>&1 || echo "apt-get update failed; trying with the lists that are there" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
  else
    echo "missing: ${missing[*]} (Debian's package names). Install them, or run this as root, and try again." >&2
    return 64
  fi
}

# need_rust: cargo must be there, and be new enough.
need_rust() {
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  if ! command -v cargo >/dev/null 2>&1; then
    echo "missing: Rust (cargo). Install it with rustup, see the page 'Install Rust' on rust-lang.org, and try again." >&2
    return 64
  fi
  local minor
  minor=$(cargo --version | sed -E 's/^cargo 1\.([0-9]+).*/\1/')
  if [ "$minor" -lt 89 ]; then
    echo "Rust 1.$minor is too old; 1.89 is needed. Run: rustup update stable" >&2
    return 64
  fi
}

# need_mosquitto: the broker for the bridges' tests, which start their own. Debian keeps it in /usr/sbin, and its package
# would start one on port 1883: a policy-rc.d that says no prevents that while it is installed.
need_mosquitto() {
  command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ] && return 0
  local policy=/usr/sbin/policy-rc.d mine=
  if [ "$(id -u)" = 0 ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && mine=1
  fi
  local result=0
  need mosquitto=mosquitto || result=$?
  if [ -n "$mine" ]; then
    rm -f "$policy"
    command -v systemctl >/dev/null 2>&1 && systemctl disable mosquitto >/dev/null 2>&1
  fi
  return "$result"
}
