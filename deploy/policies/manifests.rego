# What no manifest of ours may lack: deploy/check-kubernetes.sh asks for every document in deploy/kubernetes. "input" is one
# Kubernetes object. It passes when "deny" is empty. Only builtins that every Rego engine has.

package tidegate.manifests

workloads := {"DaemonSet", "Deployment", "StatefulSet", "Job"}

pod := input.spec.template.spec if input.kind in workloads

pod := input.spec if input.kind == "Pod"

containers contains container if some container in pod.containers

containers contains container if some container in pod.initContainers

deny contains sprintf("%s: resources.requests.%s is missing", [container.name, what]) if {
	some container in containers
	some what in ["cpu", "memory"]
	not container.resources.requests[what]
}

# No limit for the processor: it would slow a gateway down while others idle.
deny contains sprintf("%s: resources.limits.memory is missing", [container.name]) if {
	some container in containers
	not container.resources.limits.memory
}

deny contains sprintf("%s: must run as somebody else than root (runAsNonRoot: true)", [container.name]) if {
	some container in containers
	not security(container, "runAsNonRoot") == true
}

deny contains sprintf("%s: runAsUser must not be 0", [container.name]) if {
	some container in containers
	security(container, "runAsUser") == 0
}

deny contains sprintf("%s: readOnlyRootFilesystem must be true", [container.name]) if {
	some container in containers
	not container.securityContext.readOnlyRootFilesystem == true
}

deny contains sprintf("%s: allowPrivilegeEscalation must be false", [container.name]) if {
	some container in containers
	not container.securityContext.allowPrivilegeEscalation == false
}

deny contains sprintf("%s: must not be privileged", [container.name]) if {
	some container in containers
	container.securityContext.privileged == true
}

deny contains sprintf("%s: must drop all capabilities", [container.name]) if {
	some container in containers
	not drops_all(container)
}

deny contains sprintf("%s: adds capabilities", [container.name]) if {
	some container in containers
	count(container.securityContext.capabilities.add) > 0
}

deny contains sprintf("%s: seccompProfile must be RuntimeDefault or Localhost", [container.name]) if {
	some container in containers
	not filtered(container)
}

deny contains sprintf("%s: the image %s must have a tag or digest that stays what it is", [container.name, container.image]) if {
	some container in containers
	not pinned(container.image)
}

deny contains sprintf("%s: has no %s", [container.name, probe]) if {
	some container in containers
	input.kind in {"DaemonSet", "Deployment", "StatefulSet"}
	not container.name in init_names
	some probe in ["livenessProbe", "readinessProbe"]
	not container[probe]
}

deny contains "automountServiceAccountToken must be false: nothing here talks to Kubernetes" if {
	pod
	not pod.automountServiceAccountToken == false
}

deny contains "enableServiceLinks must be false: Kubernetes would set TIDEGATE_… variables, which are read as configuration" if {
	pod
	not pod.enableServiceLinks == false
}

deny contains sprintf("%s must be false", [what]) if {
	some what in ["hostPID", "hostIPC"]
	pod[what] == true
}

init_names contains container.name if some container in pod.initContainers

# The container's own setting wins over the pod's.
security(container, key) := container.securityContext[key]

security(container, key) := pod.securityContext[key] if not has(container, key)

has(container, key) if _ = container.securityContext[key]

drops_all(container) if "ALL" in container.securityContext.capabilities.drop

filtered(container) if security(container, "seccompProfile").type in {"RuntimeDefault", "Localhost"}

pinned(image) if contains(image, "@sha256:")

# After the last slash: a registry may have a port.
pinned(image) if {
	parts := split(image, "/")
	name := split(parts[count(parts) - 1], ":")
	count(name) == 2
	name[1] != "latest"
	name[1] != ""
}
