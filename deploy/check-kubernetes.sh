#!/usr/bin/env bash
# The manifests in deploy/kubernetes are what the Helm chart makes, are valid for Kubernetes 1.25 and 1.37, hold configurations
# that Tidegate accepts, and keep the policies in deploy/policies. What needs a tool that is not here is said to be unchecked.
# usage: deploy/check-kubernetes.sh [--write] [TIDEGATE]    (target/debug/tidegate; --write: make deploy/kubernetes anew, with helm)
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh
need python3=python3
write=
[ "${1:-}" != --write ] || { write=1; shift; }
tidegate=$(realpath "${1:-target/debug/tidegate}")
chart=deploy/helm/tidegate
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0
ok() { checks=$((checks + 1)); echo "ok: $*"; }

venv=$PWD/.work/kubernetes
if ! "$venv/bin/python" -c 'import kubernetes_validate' >/dev/null 2>&1; then
  python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || need_package python3-venv
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q 'kubernetes-validate==1.37.0'
fi

# The chart's plain manifests; Helm's own comments say where each part comes from.
render() { # FILE ARGUMENT…
  local file=$1
  shift
  { echo "# Made from deploy/helm/tidegate by deploy/check-kubernetes.sh --write."
    helm template tidegate "$chart" --kube-version 1.32.0 "$@"; } >"$work/$file"
}
if command -v helm >/dev/null 2>&1; then
  monitors='--set edge.metrics.serviceMonitor=true --set cloud.metrics.serviceMonitor=true'
  render edge-daemonset.yaml -s templates/edge-daemonset.yaml
  render cloud-deployment.yaml -s templates/cloud-deployment.yaml
  # shellcheck disable=SC2086 # two options
  render servicemonitor.yaml -s templates/servicemonitor.yaml $monitors
  render kubeedge.yaml -f $chart/values-kubeedge.yaml
  [ -z "$write" ] || { mkdir -p deploy/kubernetes && cp "$work"/*.yaml deploy/kubernetes/; }
  for file in "$work"/*.yaml; do diff -u "deploy/kubernetes/$(basename "$file")" "$file"; done
  helm lint --quiet --strict --kube-version 1.32.0 $chart
  ok "deploy/kubernetes is what the chart makes"
else
  echo "not checked: helm is not on this machine, so whether deploy/kubernetes is what the chart makes"
fi

# ServiceMonitor is the Prometheus operator's, and in no schema of Kubernetes.
for version in 1.25.0 1.37.0; do
  for file in deploy/kubernetes/*.yaml; do
    [ "$file" != deploy/kubernetes/servicemonitor.yaml ] || continue
    "$venv/bin/kubernetes-validate" --quiet --no-warn --strict -k $version "$file"
  done
  ok "the schemas of Kubernetes $version"
done

# The configurations inside, with keys and devices where they look for them; and the names and versions.
"$venv/bin/python" - "$work" "$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" <<'PYTHON'
import glob, json, sys, yaml
work, version = sys.argv[1:]
chart = yaml.safe_load(open("deploy/helm/tidegate/Chart.yaml"))
assert chart["version"] == chart["appVersion"] == version, f"Chart.yaml is not of version {version}"
assert f"tidegate:{version}" in open("deploy/docker/Dockerfile").read(), "the Dockerfile names another version"
for path in sorted(glob.glob("deploy/kubernetes/*.yaml")):
    for i, document in enumerate(d for d in yaml.safe_load_all(open(path)) if d):
        json.dump(document, open(f"{work}/{path.split('/')[-1]}-{i}.json", "w"))
        for name, text in document.get("data", {}).items() if document["kind"] == "ConfigMap" else ():
            open(f"{work}/{path.split('/')[-1]}-{name}", "w").write(text.replace("/etc/tidegate/", f"{work}/"))
        template = document.get("spec", {}).get("template", {}) if document["kind"] in ("DaemonSet", "Deployment") else {}
        for container in template.get("spec", {}).get("containers", ()):
            assert container["image"] == f"tidegate:{version}", f"{path}: {container['image']}"
PYTHON
ok "names and versions"
"$tidegate" keys server --name gw.plant.example --dir "$work/keys" >/dev/null
mkdir -p "$work/tls" "$work/devices"
cp "$work/keys/server.pem" "$work/tls/tls.crt"
cp "$work/keys/server.key" "$work/tls/tls.key"
"$tidegate" devices add press-7 --file "$work/devices/devices.toml" >/dev/null 2>&1
for file in "$work"/*-edge.toml; do "$tidegate" check --edge "$file" >/dev/null; done
for file in "$work"/*-cloud.toml; do "$tidegate" check --cloud "$file" >/dev/null; done
ok "the configurations in the manifests"

if command -v opa >/dev/null 2>&1; then
  opa test deploy/policies
  for file in "$work"/*.json; do
    opa eval --fail-defined -d deploy/policies/manifests.rego -i "$file" 'data.tidegate.manifests.deny[_]' >"$work/out" ||
      { echo "FAILED: $file" >&2; cat "$work/out" >&2; exit 1; }
  done
  ok "the policies"
else
  echo "not checked: opa is not on this machine, so the policies in deploy/policies"
fi
echo "$checks passed, 0 failed"
