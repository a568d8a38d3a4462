# opa test deploy/policies

package tidegate.manifests_test

import data.tidegate.manifests

good := {
	"kind": "DaemonSet",
	"spec": {"template": {"spec": {
		"automountServiceAccountToken": false,
		"enableServiceLinks": false,
		"securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
		"containers": [{
			"name": "edge",
			"image": "registry.example:5000/tidegate:0.1.0",
			"livenessProbe": {},
			"readinessProbe": {},
			"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
			"securityContext": {
				"allowPrivilegeEscalation": false,
				"readOnlyRootFilesystem": true,
				"capabilities": {"drop": ["ALL"]},
			},
		}],
	}}},
}

# Each way to spoil it, and the one refusal that must come of it.
spoiled := {
	"edge: resources.requests.cpu is missing": {"op": "remove", "path": "resources/requests/cpu"},
	"edge: resources.requests.memory is missing": {"op": "remove", "path": "resources/requests/memory"},
	"edge: resources.limits.memory is missing": {"op": "remove", "path": "resources/limits/memory"},
	"edge: must run as somebody else than root (runAsNonRoot: true)": {"op": "add", "path": "securityContext/runAsNonRoot", "value": false},
	"edge: runAsUser must not be 0": {"op": "add", "path": "securityContext/runAsUser", "value": 0},
	"edge: readOnlyRootFilesystem must be true": {"op": "remove", "path": "securityContext/readOnlyRootFilesystem"},
	"edge: allowPrivilegeEscalation must be false": {"op": "remove", "path": "securityContext/allowPrivilegeEscalation"},
	"edge: must not be privileged": {"op": "add", "path": "securityContext/privileged", "value": true},
	"edge: must drop all capabilities": {"op": "remove", "path": "securityContext/capabilities/drop"},
	"edge: adds capabilities": {"op": "add", "path": "securityContext/capabilities/add", "value": ["NET_ADMIN"]},
	"edge: seccompProfile must be RuntimeDefault or Localhost": {"op": "add", "path": "securityContext/seccompProfile", "value": {"type": "Unconfined"}},
	"edge: the image tidegate:latest must have a tag or digest that stays what it is": {"op": "replace", "path": "image", "value": "tidegate:latest"},
	"edge: the image r:5000/tidegate must have a tag or digest that stays what it is": {"op": "replace", "path": "image", "value": "r:5000/tidegate"},
	"edge: has no livenessProbe": {"op": "remove", "path": "livenessProbe"},
	"edge: has no readinessProbe": {"op": "remove", "path": "readinessProbe"},
}

with_change(change) := json.patch(good, [object.union(change, {"path": concat("/", ["spec/template/spec/containers/0", change.path])})])

test_a_good_one_passes if manifests.deny == set() with input as good

test_a_digest_is_a_pin if {
	changed := with_change({"op": "replace", "path": "image", "value": "tidegate@sha256:0123"})
	manifests.deny == set() with input as changed
}

test_every_way_to_spoil_it_is_refused_for_just_that if {
	every refusal, change in spoiled {
		changed := with_change(change)
		manifests.deny == {refusal} with input as changed
	}
}

test_the_pod_is_looked_at if {
	spec := {"op": "remove", "path": "/spec/template/spec/enableServiceLinks"}
	changed := json.patch(good, [spec, {"op": "add", "path": "/spec/template/spec/hostPID", "value": true}])
	count(manifests.deny) == 2 with input as changed
}

test_init_containers_are_looked_at if {
	changed := json.patch(good, [{"op": "add", "path": "/spec/template/spec/initContainers", "value": [{"name": "chown", "image": "busybox"}]}])
	"chown: readOnlyRootFilesystem must be true" in manifests.deny with input as changed
}

test_what_runs_nothing_passes if manifests.deny == set() with input as {"kind": "Service", "spec": {"ports": []}}
