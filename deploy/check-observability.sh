#!/usr/bin/env bash
# Every metric, label and label's value in the dashboards and alerts exists: in the /metrics of a running edge and a running
# cloud process, or, for what shows only after use, where the source registers it. And the alerts' own tests, with promtool.
# usage: deploy/check-observability.sh [TIDEGATE]    (target/debug/tidegate)
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh
need curl=curl python3=python3
tidegate=$(realpath "${1:-target/debug/tidegate}")
work=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap cleanup EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
checks=0
ok() { checks=$((checks + 1)); echo "ok: $*"; }

python3 deploy/grafana/make.py "$work"
for name in edge cloud models; do cmp "$work/$name.json" "deploy/grafana/$name.json"; done
ok "the dashboards are what make.py makes"

# An edge that has taken and refused something, with TLS, so that its metrics show.
edge=127.0.0.1:$(free_port) tls=127.0.0.1:$(free_port) mqtt=127.0.0.1:$(free_port) cloud=127.0.0.1:$(free_port)
"$tidegate" keys server --name localhost --dir "$work/tls" >/dev/null
cat >"$work/edge.toml" <<TOML
[node]
data_dir = "$work/edge"
[http]
listen = "$edge"
tls_listen = "$tls"
[mqtt]
listen = "$mqtt"
[tls]
certificate_file = "$work/tls/server.pem"
key_file = "$work/tls/server.key"
TOML
"$tidegate" edge --config "$work/edge.toml" >"$work/edge.log" 2>&1 &
pids+=($!)
mkdir "$work/cloud"
(cd "$work/cloud" && TIDEGATE_HTTP_LISTEN=$cloud TIDEGATE_PULSAR_SERVICE=pulsar://127.0.0.1:1 exec "$tidegate" cloud) >"$work/cloud.log" 2>&1 &
pids+=($!)
answers() { for _ in $(seq 100); do curl -fsS -o /dev/null "$1" 2>/dev/null && return; sleep 0.1; done; tail "$work"/*.log >&2; return 1; }
answers "http://$edge/readyz"
answers "http://$cloud/healthz"
curl -fsS -o /dev/null -H 'content-type: application/json' -d '{"n":1}' "http://$edge/v1/devices/d/events"
curl -sS -o /dev/null -H 'content-type: application/json' -d '{' "http://$edge/v1/devices/d/events"
curl -fsS "http://$edge/metrics" >"$work/metrics"
curl -fsS "http://$cloud/metrics" >>"$work/metrics"

python3 - "$work/metrics" <<'PYTHON'
import glob, json, re, subprocess, sys
# What runs shows: the label names and values of every sample.
shown = {}
for line in open(sys.argv[1]):
    if (m := re.match(r"(tidegate_\w+)(?:\{(.*)\})? ", line)):
        labels = shown.setdefault(m[1], {})
        for name, value in re.findall(r'(\w+)="([^"]*)"', m[2] or ""):
            labels.setdefault(name, set()).add(value)
# What is registered shows after use.
registered = set(re.findall(r'register(?:_with_unit)?\(\s*"(\w+)"', subprocess.check_output(["cat", *glob.glob("src/**/*.rs", recursive=True)], text=True)))
PROMETHEUS = {"instance", "job", "le"}
texts = {}
for path in glob.glob("deploy/grafana/*.json"):
    for panel in json.load(open(path))["panels"]:
        for target in panel.get("targets", ()):
            texts[f"{path}: {panel['title']} {target['refId']}"] = target["expr"]
rules = open("deploy/prometheus/rules.yml").read()
for m in re.finditer(r"alert: (\w+)\n\s+expr: (.*?)\n\s+(?:for|labels):", rules, re.S):
    texts[f"rules.yml: {m[1]}"] = m[2]
assert len(texts) > 50, texts
wrong, later, names = [], set(), set()
for where, text in texts.items():
    labels = set()
    for name, selector in re.findall(r"(tidegate_\w+)(?:\{([^}]*)\})?", text):
        names.add(name)
        if name not in shown:
            base = re.sub(r"_(total|bucket|count|sum)$", "", name.removeprefix("tidegate_"))
            if base not in registered and base.removesuffix("_seconds") not in registered:
                wrong.append(f"{where}: {name} does not exist")
            later.add(name)
            labels = None
            continue
        if labels is not None:
            labels |= set(shown[name])
        for label, is_pattern, value in re.findall(r'(\w+)=(~?)"([^"]*)"', selector):
            if label in PROMETHEUS:
                continue
            for one in value.split("|"):
                if one not in shown[name].get(label, ()):
                    wrong.append(f"{where}: {name} has no {label}={one}")
    for by in re.findall(r"by \(([^)]*)\)", text) if labels is not None else ():
        for label in re.split(r",\s*", by):
            if label not in labels | PROMETHEUS:
                wrong.append(f"{where}: nothing in it has the label {label}")
if wrong:
    sys.exit("\n".join(wrong))
print(f"ok: {len(names) - len(later)} metrics in {len(texts)} queries are shown by running processes; registered, and shown after use: {', '.join(sorted(later))}")
PYTHON
checks=$((checks + 1))

if command -v promtool >/dev/null 2>&1; then
  promtool check rules deploy/prometheus/rules.yml >/dev/null
  (cd deploy/prometheus && promtool test rules rules_test.yml >/dev/null)
  ok "the alerts' own tests"
  # The dashboards' queries as rules, so that promtool reads them.
  python3 - "$work/queries.yml" <<'PYTHON'
import glob, json, sys
queries = [t["expr"] for p in glob.glob("deploy/grafana/*.json") for panel in json.load(open(p))["panels"] for t in panel.get("targets", ())]
plain = [q.replace("$__rate_interval", "5m").replace("$instance", ".*") for q in queries]
json.dump({"groups": [{"name": "queries", "rules": [{"record": f"query:{i}", "expr": q} for i, q in enumerate(plain)]}]}, open(sys.argv[1], "w"))
PYTHON
  promtool check rules "$work/queries.yml" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
  ok "the dashboards' queries can be read"
else
  echo "not checked: promtool is not on this machine, so the alerts' own tests"
fi
echo "$checks passed, 0 failed"
