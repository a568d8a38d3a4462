#!/usr/bin/env bash
# What the dependencies must be: one TLS stack (rustls with ring), permissive licences, no known advisories where
# the advisory database is at hand. Works offline once the crates are fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh
need python3=python3

for crate in aws-lc-rs aws-lc-sys openssl-sys native-tls openssl boring; do
  if cargo tree --locked -e all -i "$crate" --target all >/dev/null 2>&1; then
    echo "a second TLS stack came in: $crate" >&2
    cargo tree --locked -e all -i "$crate" --target all >&2
    exit 1
  fi
done
echo "one TLS stack: ok"

cargo metadata --locked --format-version 1 | python3 -c '
import json, re, sys
allowed = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD",
           "Unicode-3.0", "Unicode-DFS-2016", "CC0-1.0", "MIT-0", "Unlicense", "BSL-1.0", "CDLA-Permissive-2.0"}
packages = json.load(sys.stdin)["packages"]
def fits(text):
    # OR needs one, AND needs all; parentheses occur only around ORs inside ANDs.
    text = text.replace("/", " OR ")
    while (m := re.search(r"\(([^()]*)\)", text)):
        text = text[:m.start()] + ("MIT" if fits(m[1]) else "refused") + text[m.end():]
    return any(all(t.strip() in allowed for t in part.split(" AND ")) for part in text.split(" OR "))
bad = [p["name"] + ": " + str(p["license"]) for p in packages if not fits(p["license"] or "none")]
print("\n".join("licence not allowed: " + b for b in bad), file=sys.stderr) if bad else print("licences of", len(packages), "packages: ok")
sys.exit(1 if bad else 0)'

if command -v cargo-deny >/dev/null 2>&1 && [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ]; then
  cargo deny --offline check advisories
else
  echo "advisories: not checked (needs cargo-deny and its advisory database on this machine)"
fi
