#!/usr/bin/env bash
# Builds the Debian package, and installs, upgrades, removes and purges it with dpkg below a temporary directory. The program is the
# real one; systemctl is a stand-in that writes down what it is told.
# usage: deploy/check-deb.sh [TIDEGATE]    (target/debug/tidegate)
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh
need readelf=binutils shellcheck=shellcheck
command -v dpkg >/dev/null 2>&1 || { echo "not checked: dpkg is not on this machine, so the Debian package"; exit 0; }
tidegate=$(realpath "${1:-target/debug/tidegate}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0
ok() { checks=$((checks + 1)); echo "ok: $*"; }
no() { echo "FAILED: $*" >&2; cat "$work/out" >&2; exit 1; }

shellcheck -s sh deploy/debian/*
shellcheck -x deploy/deb.sh deploy/check-deb.sh
ok "shellcheck"

# The debug program is large: what is packed is its start-up, not its symbols.
strip -o "$work/tidegate" "$tidegate" 2>/dev/null || cp "$tidegate" "$work/tidegate"
mkdir -p "$work/1" "$work/2" "$work/bin"
export DPKG_DEB_COMPRESSOR_TYPE=gzip DPKG_DEB_COMPRESSOR_LEVEL=1 # a check is in a hurry
deploy/deb.sh --binary "$work/tidegate" --out "$work/1" >/dev/null
deploy/deb.sh --binary "$work/tidegate" --version 99.0.0-1 --out "$work/2" >/dev/null
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
[ "$(dpkg-deb --field "$work"/1/*.deb Version)" = "$version-1" ] || no "version"
ok "$(basename "$work"/1/*.deb): $(($(stat -c %s "$work"/1/*.deb) / 1024)) KiB, Depends: $(dpkg-deb --field "$work"/1/*.deb Depends)"

root=$work/root
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/run/systemd/system"
touch "$root/var/lib/dpkg/status"
cat >"$work/bin/systemctl" <<STUB
#!/bin/sh
echo "\$*" >>"$work/orders"
STUB
chmod +x "$work/bin/systemctl"
touch "$work/orders"
# Chrootless: the scripts are given DPKG_ROOT. The new directory has no libc6 of its own.
package() {
  : >"$work/orders"
  PATH="$work/bin:$PATH" dpkg --root="$root" --force-script-chrootless --force-not-root --force-depends --log=/dev/null "$@" >"$work/out" 2>&1 || no "dpkg $*"
}
ordered() { [ "$(cat "$work/orders")" = "$1" ] || no "orders to systemctl: $(cat "$work/orders")"; }

package --install "$work"/1/*.deb
ordered daemon-reload
"$root/usr/bin/tidegate" --version | grep -qx "tidegate $version" || no "the program"
"$root/usr/bin/tidegate" check --edge "$root/etc/tidegate/edge.toml" >"$work/out" || no "the edge's configuration"
"$root/usr/bin/tidegate" check --cloud "$root/etc/tidegate/cloud.toml" >"$work/out" || no "the cloud's configuration"
for role in edge cloud; do
  mkdir -p "$work/script-$role"
  deploy/install.sh --root "$work/script-$role" --role $role --binary "$work/tidegate" >/dev/null
  cmp "$work/script-$role/etc/tidegate/$role.toml" "$root/etc/tidegate/$role.toml" || no "install.sh makes another configuration of the $role"
  grep -q "^ExecStart=/usr/bin/tidegate $role --config /etc/tidegate/$role.toml$" "$root/usr/lib/systemd/system/tidegate-$role.service" || no "unit"
done
[ "$(stat -c %a "$root/etc/tidegate" "$root/etc/tidegate/edge.toml" | xargs)" = "750 640" ] || no "permissions"
dpkg --root="$root" --verify tidegate || no "files differ from the package"
ok "installed: program, units, configurations as install.sh makes them; nothing is enabled"

echo '# mine' >>"$root/etc/tidegate/edge.toml"
mkdir -p "$root/var/lib/tidegate"
echo event >"$root/var/lib/tidegate/event"
package --install "$work"/2/*.deb
ordered "daemon-reload
try-restart tidegate-edge.service tidegate-cloud.service"
grep -q '# mine' "$root/etc/tidegate/edge.toml" || no "the configuration was replaced"
ok "upgraded: what runs is restarted, the configuration stays"

package --remove tidegate
ordered "--quiet disable --now tidegate-edge.service tidegate-cloud.service
daemon-reload"
[ ! -e "$root/usr/bin/tidegate" ] || no "the program is left"
[ -e "$root/var/lib/tidegate/event" ] || no "removing took data"
grep -q '# mine' "$root/etc/tidegate/edge.toml" || no "removing took the configuration"
ok "removed: stopped and disabled, data and configuration stay"

package --install "$work"/1/*.deb
grep -q '# mine' "$root/etc/tidegate/edge.toml" || no "the configuration was replaced"
package --purge tidegate
left=$(find "$root" -path "$root/var/lib/dpkg" -prune -o \( -type f -o -name '*tidegate*' \) -print)
[ -z "$left" ] || no "left after purging: $left"
ok "installed again with what was kept; purged: nothing is left"
echo "$checks passed, 0 failed"
