#!/usr/bin/env bash
# Installs, upgrades, spoils, removes and purges with deploy/install.sh below a temporary directory. The program is the real one;
# the service manager is a stand-in for systemctl that starts, restarts and stops it as the unit says. Then what checks the
# units and scripts without running them, where it is on this machine.
# usage: deploy/check-install.sh [TIDEGATE]    (target/debug/tidegate)
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh
need curl=curl shellcheck=shellcheck python3=python3
[ -z "${CI:-}" ] || need systemd-analyze=systemd
tidegate=$(realpath "${1:-target/debug/tidegate}")
[ -x "$tidegate" ] || { echo "no program at $tidegate; build it, or name one" >&2; exit 64; }

work=$(mktemp -d)
root=$work/root
checks=0
mkdir -p "$root" "$work/bin" "$work/manager"
cleanup() {
  local result=$?
  PATH="$work/bin:$PATH" systemctl stop tidegate-edge || true
  PATH="$work/bin:$PATH" systemctl stop tidegate-cloud || true
  [ $result = 0 ] || tail -n 30 "$work"/manager/*.log "$work/out" >&2 || true
  rm -rf "$work"
}
trap cleanup EXIT

# --- a service manager that knows one thing: run what the unit says, again after it ended

cat >"$work/bin/systemctl" <<'STUB'
#!/usr/bin/env bash
set -u
[ "$1" != --quiet ] || shift
units=$ROOT/etc/systemd/system m=$MANAGER order=$1 name=${2:-}
echo "$*" >>"$m/orders"
setting() { sed -n "s/^$1=//p" "$m/$name.service"; }
start() {
  local command prevent
  read -ra command <<<"$(setting ExecStart)"
  command=("${command[@]/#\//$ROOT/}")
  # On the machine itself: as its user, without privileges.
  [ -n "$ROOT" ] || command=(setpriv --reuid "$(setting User)" --regid "$(setting Group)" --clear-groups --bounding-set=-all --no-new-privs "${command[@]}")
  prevent=$(setting RestartPreventExitStatus)
  ( # As systemd reads it, for the plain lines of these tests.
    while IFS= read -r line; do export "${line//\"/}"; done <"$ROOT$(setting EnvironmentFile | sed s/^-//)"
    cd "$ROOT$(setting WorkingDirectory)" || exit
    while :; do
      "${command[@]}" >>"$m/$name.log" 2>&1 &
      echo $! >"$m/$name.child"
      wait $!; code=$?
      rm -f "$m/$name.child"
      [ $code != "$prevent" ] || exit 0
      sleep 0.3
    done
  ) </dev/null >/dev/null 2>&1 &
  echo $! >"$m/$name.loop"
}
stop() {
  [ -e "$m/$name.loop" ] || return 0
  kill -KILL "$(cat "$m/$name.loop")" 2>/dev/null
  child=$(cat "$m/$name.child" 2>/dev/null) && kill "$child" && while kill -0 "$child" 2>/dev/null; do sleep 0.05; done
  rm -f "$m/$name.loop" "$m/$name.child"
}
active() { [ -e "$m/$name.loop" ] && kill -0 "$(cat "$m/$name.loop")" 2>/dev/null; }
case $order in
  daemon-reload) rm -f "$m"/*.service; cp "$units"/*.service "$m/" 2>/dev/null; : ;;
  enable) touch "$m/$name.enabled" ;;
  disable) rm -f "$m/$name.enabled" ;;
  start | restart)
    [ -e "$m/$name.service" ] || { echo "Unit $name.service not found." >&2; exit 5; }
    stop; start ;;
  stop) stop ;;
  is-active)
    if [ ! -e "$m/$name.loop" ]; then echo inactive; exit 3
    elif ! active; then echo failed; exit 3
    elif [ -e "$m/$name.child" ]; then echo active
    else echo activating; exit 3
    fi ;;
  show) name=$4; cat "$m/$name.child" 2>/dev/null || echo 0 ;;
  *) echo "not in this stand-in: $order" >&2; exit 64 ;;
esac
STUB
chmod +x "$work/bin/systemctl"
export INSTALL_PAUSE=0.2 ROOT=$root MANAGER=$work/manager PATH="$work/bin:$PATH"

# --- words of the tests

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
ok() { checks=$((checks + 1)); echo "ok: $*"; }
no() { echo "FAILED: $*" >&2; exit 1; }
installer() { deploy/install.sh --root "$root" --service systemd "$@" >"$work/out" 2>&1; }
# expect CODE WORDS: the last call of the installer ended so, and said so.
exits() {
  local code=$1 result=0
  shift
  installer "$@" || result=$?
  [ "$result" = "$code" ] || no "install.sh $* ended with $result instead of $code"
}
says() { grep -q -e "$1" "$work/out" || no "the installer does not say: $1"; }
same() { cmp -s "$1" "$2" || no "$1 is not $2"; }
edge=http://127.0.0.1:$(free_port)
cloud=http://127.0.0.1:$(free_port)
# The sequence number of the last event must be the number of all that were ever posted.
posted=0
post() {
  posted=$((posted + 1))
  curl -fsS -m 5 -H 'content-type: application/json' -d '{"n":1}' "$edge/v1/devices/d/events" | grep -q "\"last\":$posted}" || no "event $posted is not the edge's $posted. event"
}

# Programs: two good ones that differ, and some bad ones.
program=$root/usr/local/bin/tidegate
strip -o "$work/v1" "$tidegate" 2>/dev/null || cp "$tidegate" "$work/v1" # a debug program is mostly symbols
{ cat "$work/v1"; echo; } >"$work/v2"
chmod +x "$work/v2"
# shellcheck disable=SC2016 # "$@" is for the script that is written
bad() { # NAME LINE: as the real one, but that line is what "edge" does
  printf '#!/bin/sh\ncase $1 in edge) %s ;; *) exec %s "$@" ;; esac\n' "$2" "$work/v1" >"$work/$1"
}
bad hangs 'exec sleep 1000'
bad ends-later "timeout 1.2 $work/v1 \"\$@\"; exit 70"
# shellcheck disable=SC2016
printf '#!/bin/sh\ncase $1 in check) echo "edge.toml:1:1: no"; exit 64 ;; *) exec %s "$@" ;; esac\n' "$work/v1" >"$work/picky"
{ head -c 18 "$work/v1"; printf '\363\0'; tail -c +21 "$work/v1"; } >"$work/other-machine" # an ELF file for RISC-V

# --- calls that change nothing

exits 64 --binary "$work/v1" && says 'say --role'
exits 64 --role edge && says 'say which program'
exits 64 --role edge --binary "$work/nothing" --start && says 'no such file'
exits 64 --role edge --binary "$work/v1" --wait soon && says 'number of seconds'
exits 64 --role edge --binary "$work/v1" --purge && says 'goes with --uninstall'
exits 64 --role edge --binary "$work/other-machine" --start && says 'does not run on this machine'
[ -z "$(ls -A "$root")" ] || no "a refused call left something behind"
deploy/install.sh --help | grep -q 'usage: install.sh --role edge|cloud --binary FILE' || no "--help teaches nothing"
ok "wrong calls and a program for another machine change nothing"

# --- staging: files for a package, nothing is started

exits 0 --role edge --binary "$work/v1" && says 'nothing was started'
[ ! -e "$MANAGER/orders" ] || ! grep -Ev "^(is-active|show)" "$MANAGER/orders" || no "staging gave orders to the service manager"
same "$program" "$work/v1"
[ "$(stat -c %a "$root/etc/tidegate" "$root/etc/tidegate/edge.toml" "$root/var/lib/tidegate" "$program" | xargs)" = "750 640 750 755" ] || no "permissions"
grep -qx 'data_dir = "/var/lib/tidegate"' "$root/etc/tidegate/edge.toml" || no "data_dir"
grep -qx 'ExecStart=/usr/local/bin/tidegate edge --config /etc/tidegate/edge.toml' "$root/etc/systemd/system/tidegate-edge.service" || no "unit"
"$tidegate" check --edge "$root/etc/tidegate/edge.toml" >/dev/null || no "the configuration made from the example"
ok "a staged installation has its files, permissions and configuration, and starts nothing"
exits 0 --role edge --uninstall --purge
[ -z "$(find "$root" -type f)" ] || no "files are left after --purge"

# --- first installation

mkdir -p "$root/etc/tidegate"
cat >"$root/etc/tidegate/edge.env" <<ENV
TIDEGATE_HTTP_LISTEN=${edge#http://}
TIDEGATE_MQTT_LISTEN=off
TIDEGATE_NODE_DATA_DIR=$root/var/lib/tidegate
ENV
cat >"$root/etc/tidegate/cloud.env" <<ENV
TIDEGATE_HTTP_LISTEN=${cloud#http://}
TIDEGATE_PULSAR_SERVICE=pulsar://127.0.0.1:1
TIDEGATE_MODELS_DIR=$root/var/lib/tidegate-cloud/models
ENV
# A sink's directory has no variable: this one is its operator's own file.
sed "s|^#dir = \"./tidegate-events\"|dir = \"$root/var/lib/tidegate-cloud/events\"|" config/cloud.toml >"$root/etc/tidegate/cloud.toml"
exits 0 --role edge --binary "$work/v1" --start && says "runs: $edge/readyz answers"
[ -e "$MANAGER/tidegate-edge.enabled" ] || no "not enabled"
post
ok "a first installation runs and takes events"

orders=$(grep -Ecv "^(is-active|show)" "$MANAGER/orders")
echo '# mine' >>"$root/etc/tidegate/edge.toml"
exits 0 --role edge --binary "$work/v1" --start && says 'nothing to do'
[ "$orders" = "$(grep -Ecv "^(is-active|show)" "$MANAGER/orders")" ] || no "the second run gave orders"
grep -q '# mine' "$root/etc/tidegate/edge.toml" || no "the configuration was replaced"
ok "the same again changes nothing"

# --- upgrades

exits 0 --role edge --binary "$work/v2" --start && says 'readyz answers'
same "$program" "$work/v2" && same "$program.previous" "$work/v1"
post
ok "a good upgrade runs, with the old program beside it"

for how in hangs ends-later; do
  # Three good answers in 2 s must not come from a program that runs for 1.2 s.
  [ $how != ends-later ] || export INSTALL_PAUSE=1
  exits 75 --role edge --binary "$work/$how" --start --wait 2 && says 'the one before is back and answers'
  same "$program" "$work/v2"
  [ ! -e "$program.previous" ] || no "tidegate.previous is left"
  post
  export INSTALL_PAUSE=0.2
  ok "an upgrade that $how: the old program is back and takes events"
done

running=$(cat "$MANAGER/tidegate-edge.child")
exits 64 --role edge --binary "$work/picky" --start && says 'does not accept'
exits 64 --role edge --binary "$work/other-machine" --start && says 'does not run on this machine'
[ "$running" = "$(cat "$MANAGER/tidegate-edge.child")" ] || no "a refused upgrade touched the service"
post
ok "a program that does not accept the configuration, or is for another machine, is refused while the old one goes on"

exits 0 --role edge --binary "$work/v1" --start
exits 0 --role edge --rollback --start
same "$program" "$work/v2" && same "$program.previous" "$work/v1"
post
ok "--rollback puts the program before in place"

systemctl stop tidegate-edge
exits 0 --role edge --binary "$work/v1" --start && says 'was stopped and stays so'
[ "$(systemctl is-active tidegate-edge)" = inactive ] || no "a stopped service was started"
systemctl start tidegate-edge
ok "what was stopped stays stopped"

# --- the cloud's side beside it, without a Pulsar to be ready with

exits 0 --role cloud --binary "$work/v1" --start && says "runs: $cloud/healthz answers"
exits 0 --role cloud --binary "$work/v2" --start && says "runs: $cloud/healthz answers" && says 'tidegate-edge uses the same program'
exits 0 --role cloud --uninstall --purge --start
same "$program" "$work/v2"
[ ! -e "$root/var/lib/tidegate-cloud" ] || no "--purge left the cloud's data"
[ -e "$root/etc/tidegate/edge.toml" ] || no "--purge of the cloud's side took the edge's configuration"
curl -fsS -m 5 "$edge/readyz" >/dev/null || no "the edge does not run any more"
ok "the cloud's side comes, is upgraded without its Pulsar, and goes without the edge noticing"

# --- the end

post
exits 0 --role edge --uninstall --start && says 'stay (--purge removes them'
for file in "$program" "$root/etc/systemd/system/tidegate-edge.service" "$MANAGER/tidegate-edge.enabled"; do
  [ ! -e "$file" ] || no "$file is left"
done
! curl -fsS -m 1 "$edge/healthz" >/dev/null 2>&1 || no "it still runs"
exits 0 --role edge --binary "$work/v2" --start
post
grep -q '# mine' "$root/etc/tidegate/edge.toml" || no "the configuration is gone"
ok "uninstalling keeps events and configuration: the next installation goes on with event $posted"
exits 0 --role edge --uninstall --purge --start
[ -z "$(find "$root" -type f)" ] || no "files are left: $(find "$root" -type f)"
ok "--purge leaves nothing"

# --- as root on the machine itself, whose directories are covered by ones that vanish with a mount namespace

# Not every container lets root do that.
covers() {
  mkdir -p "$work/probe"
  # shellcheck disable=SC2016
  unshare -m --propagation private sh -c 'mount -t tmpfs tmpfs "$1" && mkdir "$1/u" "$1/w" &&
    mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/u,workdir=$1/w" /etc' sh "$work/probe" 2>/dev/null
}
if [ "$(id -u)" = 0 ] && covers && ! id tidegate >/dev/null 2>&1; then
  cat >"$work/machine" <<'MACHINE'
set -euo pipefail
mount -t tmpfs tmpfs "$1"
for dir in /etc /usr/local /var/lib /var/log; do
  mkdir -p "$1$dir/upper" "$1$dir/work"
  mount -t overlay overlay -o "lowerdir=$dir,upperdir=$1$dir/upper,workdir=$1$dir/work" "$dir"
done
trap 'systemctl stop tidegate-edge' EXIT
installer() { deploy/install.sh --role edge --service systemd "$@"; }
mkdir -p /etc/tidegate
printf 'TIDEGATE_HTTP_LISTEN=%s\nTIDEGATE_MQTT_LISTEN="off"\n' "$2" >/etc/tidegate/edge.env
installer --binary "$3"
id tidegate
[ "$(stat -c %U:%G:%a /etc/tidegate/edge.toml /etc/tidegate/tls /var/lib/tidegate /usr/local/bin/tidegate | xargs)" = \
  "root:tidegate:640 tidegate:tidegate:750 tidegate:tidegate:750 root:root:755" ]
[ "$(stat -c %U "/proc/$(cat "$MANAGER/tidegate-edge.child")" /var/lib/tidegate/outbox | xargs)" = "tidegate tidegate" ]
result=0
installer --binary "$4" --wait 2 || result=$?
[ $result = 75 ]
cmp "$3" /usr/local/bin/tidegate
installer --uninstall --purge
[ -z "$(find /etc /usr/local /var/lib /var/log -name '*tidegate*' -print)" ]
! id tidegate 2>/dev/null
MACHINE
  rm -rf "$MANAGER" && mkdir "$MANAGER" "$work/cover"
  ROOT='' unshare -m --propagation private bash -e "$work/machine" "$work/cover" "${edge#http://}" "$work/v1" "$work/hangs" >"$work/out" 2>&1 || no "on the machine itself"
  ok "as root: the user, owners and rights; the program runs as that user; a bad upgrade goes back; --purge leaves nothing"
else
  echo "not checked: an installation on the machine itself (needs root, mount namespaces, and no user tidegate)"
fi

# --- without running anything

shellcheck -s sh deploy/install.sh
shellcheck -s sh -e SC2034,SC1091 deploy/openrc/tidegate-edge # settings that openrc-run reads; a file of the machine's own
shellcheck -x deploy/check-install.sh
ok "shellcheck"
if command -v systemd-analyze >/dev/null 2>&1; then
  for unit in deploy/systemd/*.service; do
    score=$(systemd-analyze security --offline=true --threshold=20 --no-pager "$unit" | tail -n 1) || no "$unit: $score; at most 2.0"
    ok "$score"
  done
  for role in edge cloud; do exits 0 --role $role --binary "$work/v1"; done
  mkdir -p "$root/bin" "$root/usr/lib/systemd"
  cp /bin/kill "$root/bin/"
  cp -r /usr/lib/systemd/system "$root/usr/lib/systemd/" 2>/dev/null || true
  systemd-analyze verify --root="$root" --man=no tidegate-edge.service tidegate-cloud.service >"$work/out" 2>&1 || no "systemd-analyze verify"
  ! grep tidegate "$work/out" || no "systemd-analyze verify"
  ok "systemd knows every key of the units"
else
  echo "not checked: systemd-analyze is not on this machine"
fi
echo "$checks passed, 0 failed"
