# What no document may do, whoever signed it: tidegate config check press.toml --policy config/policy.rego
#
# "input" is what the document sets, and nothing of any gateway: input.uplink.pulsar is there only if the document names
# it. Sizes are numbers of bytes, durations numbers of seconds, addresses have their port, secrets are "(secret)".
# A document passes when "deny" is empty. Change the hosts and the numbers to yours.

package tidegate

# The hosts that gateways may deliver to: these, and everything below them.
our_hosts := ["example.com"]

# Telemetry must outlive a weekend without a link.
least_outbox_bytes := (100 * 1024) * 1024

deny contains sprintf("uplink.pulsar: %s has no TLS; write pulsar+ssl://", [url]) if {
	some url in input.uplink.pulsar
	not startswith(url, "pulsar+ssl://")
}

deny contains sprintf("uplink.pulsar: %s is not one of our hosts", [host(url)]) if {
	some url in input.uplink.pulsar
	not ours(host(url))
}

deny contains "outbox.max_bytes is less than 100 MiB" if input.outbox.max_bytes < least_outbox_bytes

deny contains "outbox.durability must stay \"disk\"" if input.outbox.durability != "disk"

deny contains "identity.mode must not be \"open\"" if input.identity.mode == "open"

deny contains "tls.client_certificates must not be \"off\"" if input.tls.client_certificates == "off"

deny contains "uplink.token: write the token into a file on the gateway, as token_file" if input.uplink.token

# scheme://host:port
host(url) := split(split(url, "://")[1], ":")[0]

ours(host) if {
	some our in our_hosts
	host == our
}

ours(host) if {
	some our in our_hosts
	endswith(host, concat("", [".", our]))
}
