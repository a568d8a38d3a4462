#!/bin/sh
# Installs, upgrades and removes Tidegate as a service of this machine. install.sh --help tells everything.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
pause=${INSTALL_PAUSE:-1} # seconds between two looks at the service; tests are in a hurry
EXIT_USAGE=64   # the call or the machine is wrong; nothing was changed
EXIT_FAILED=70  # something failed; the message says how things stand
EXIT_BACK=75    # the new binary did not become ready; the one before is back

usage() {
  cat <<'HELP'
usage: install.sh --role edge|cloud --binary FILE [options]     install, or upgrade what is installed
       install.sh --role edge|cloud --rollback [options]        go back to the binary before
       install.sh --role edge|cloud --uninstall [--purge]       remove; data and configuration stay, unless --purge

Installs the program, a user "tidegate", the configuration's directory, a service (systemd or OpenRC), and starts it. Run again,
it changes only what differs. A configuration that is there is never touched.

  --role edge|cloud   a gateway between devices and Pulsar, or the cloud's side
  --binary FILE       the tidegate program to install
  --root DIR          lay everything out below DIR, for packages and images: no user is made, nothing is started
  --prefix DIR        programs go to DIR/bin (/usr/local)
  --service NAME      systemd, openrc or none (found out)
  --start, --no-start call the service manager or do not (call it; with --root: do not)
  --wait SECONDS      time for the service to become ready (60)
  --uninstall         stop and remove the service and the program
  --purge             with --uninstall: also data, events not yet delivered among them, configuration and keys
  --rollback          put the program before in place, with the same check as for an upgrade

Upgrades: the new program must run and accept the configuration, or nothing is changed. Then it takes the place of the old one,
which stays beside it as tidegate.previous, and has --wait seconds to become ready: GET /readyz must say so three times. Otherwise
the old one is put back and started, and the exit code is 75. A cloud process that was not ready before (Pulsar was away) only has
to live (GET /healthz). What was stopped stays stopped.

After the first installation on a gateway:
  nano /etc/tidegate/edge.toml && tidegate check /etc/tidegate/edge.toml && systemctl restart tidegate-edge
  curl -i -H 'content-type: application/json' -d '{"temperature":21.5}' http://127.0.0.1:8800/v1/devices/sensor-1/events

Files                 edge                                     cloud
  configuration       /etc/tidegate/edge.toml                  /etc/tidegate/cloud.toml
  variables, secrets  /etc/tidegate/edge.env                   /etc/tidegate/cloud.env        NAME=VALUE, if there is one
  keys, certificates  /etc/tidegate/tls                        the same
  data                /var/lib/tidegate                        /var/lib/tidegate-cloud
  service             tidegate-edge                            tidegate-cloud

Exit codes: 0 done; 64 the call or the machine is wrong, nothing was changed; 70 something failed, the message says how things
stand; 75 the new program did not become ready and the one before is back.
HELP
}

say() { printf '%s\n' "tidegate: $*"; }
warn() { printf '%s\n' "tidegate: $*" >&2; }
refuse() { warn "$*"; exit $EXIT_USAGE; }
fail() { warn "$*"; exit $EXIT_FAILED; }

# --- the call

role='' binary='' root='' prefix=/usr/local service='' start='' wait=60 action=install purge=
while [ $# -gt 0 ]; do
  case $1 in
    --role | --binary | --root | --prefix | --service | --wait)
      [ $# -ge 2 ] || refuse "$1 needs a value; install.sh --help shows all"
      case $1 in
        --role) role=$2 ;; --binary) binary=$2 ;; --root) root=${2%/} ;; --prefix) prefix=${2%/} ;; --service) service=$2 ;; --wait) wait=$2 ;;
      esac
      shift ;;
    --start) start=1 ;;
    --no-start) start=0 ;;
    --uninstall) action=uninstall ;;
    --rollback) action=rollback ;;
    --purge) purge=1 ;;
    -h | --help) usage; exit 0 ;;
    *) refuse "$1 is not known; install.sh --help shows what is" ;;
  esac
  shift
done
case $role in edge | cloud) ;; *) refuse "say --role edge (a gateway) or --role cloud; install.sh --help tells more" ;; esac
case $service in '' | systemd | openrc | none) ;; *) refuse "--service is systemd, openrc or none, not $service" ;; esac
case $wait in '' | *[!0-9]*) refuse "--wait is a number of seconds, not $wait" ;; esac
case $prefix in /*) ;; *) refuse "--prefix must begin with a slash" ;; esac
[ -z "$purge" ] || [ $action = uninstall ] || refuse "--purge goes with --uninstall"
if [ -n "$root" ]; then
  [ -d "$root" ] || refuse "--root $root: there is no such directory"
  root=$(cd "$root" && pwd)
  : "${start:=0}"
elif [ "$(id -u)" != 0 ]; then
  refuse "run this as root (sudo), or lay it out elsewhere with --root DIR"
fi
: "${start:=1}"

if [ -z "$service" ]; then
  if [ -d "$root/run/systemd/system" ]; then service=systemd
  elif [ -d "$root/run/openrc" ]; then service=openrc
  elif [ -n "$root" ]; then service=systemd
  else service=none
  fi
fi

user=tidegate
name=tidegate-$role
program=$root$prefix/bin/tidegate
config=$root/etc/tidegate/$role.toml
env_file=$root/etc/tidegate/$role.env
case $role in
  edge) data=/var/lib/tidegate other=cloud address=127.0.0.1:8800 ;;
  cloud) data=/var/lib/tidegate-cloud other=edge address=127.0.0.1:8900 ;;
esac
case $service in
  systemd) unit=$root/etc/systemd/system/$name.service other_unit=$root/etc/systemd/system/tidegate-$other.service ;;
  openrc)
    [ "$role" = edge ] || refuse "there is no OpenRC service of the cloud's side yet; use --service none and your own"
    unit=$root/etc/init.d/$name other_unit=$root/etc/init.d/tidegate-$other ;;
  none) unit='' other_unit='' start=0 ;;
esac

# --- the service manager

manager() { # start | stop | restart | enable | disable | reload-units
  case $service-$1 in
    none-*) ;;
    systemd-enable | systemd-disable) systemctl --quiet "$1" "$name" ;;
    systemd-reload-units) systemctl daemon-reload ;;
    systemd-*) systemctl "$1" "$name" ;;
    openrc-enable) rc-update --quiet add "$name" default ;;
    openrc-disable) rc-update --quiet del "$name" default ;;
    openrc-reload-units) ;;
    openrc-*) rc-service "$name" "$1" ;;
  esac
}

# "up", "failing" (restarted again and again, or given up), or "down".
state() {
  case $service in
    systemd)
      case $(systemctl is-active "$name" 2>/dev/null || :) in
        active) echo up ;; activating | failed | reloading) echo failing ;; *) echo down ;;
      esac ;;
    openrc)
      if rc-service --quiet "$name" status >/dev/null 2>&1; then echo up
      elif [ $? = 32 ]; then echo failing
      else echo down
      fi ;;
    none) echo down ;;
  esac
}

# Which process it is, so that three answers are not those of three processes that ended.
process() {
  case $service in
    systemd) systemctl show --property=MainPID --value "$name" ;;
    openrc) cat "/run/openrc/options/$name/child_pid" ;;
  esac 2>/dev/null || :
}

# --- readiness

# The addresses of the configuration and of the service's variables, as the program itself understands them.
with_variables() {
  (
    if [ -r "$env_file" ]; then
      # systemd's format, of which quotes are the only part that matters here; no shell reads it.
      while IFS= read -r line || [ -n "$line" ]; do
        case $line in TIDEGATE_[A-Z]*=*) value=${line#*=} value=${value#[\"\']} value=${value%[\"\']}
          export "${line%%=*}=$value" ;;
        esac
      done <"$env_file"
    fi
    cd "$root$data" 2>/dev/null || cd /
    "$@"
  )
}

http_address() {
  listen=$(with_variables "$program" check "--$role" "$config" 2>/dev/null | sed -n 's/^ *http\.listen = "\(.*\)"$/\1/p')
  case ${listen:-$address} in
    0.0.0.0:*) echo "127.0.0.1:${listen##*:}" ;;
    '[::]:'*) echo "[::1]:${listen##*:}" ;;
    *) echo "${listen:-$address}" ;;
  esac
}

answers() { # URL: 2xx within two seconds
  if command -v curl >/dev/null 2>&1; then
    curl --noproxy '*' -fsS -m 2 -o /dev/null "$1" 2>/dev/null
  else
    no_proxy='*' wget -q -T 2 -O /dev/null "$1" 2>/dev/null
  fi
}

# PATH: three good answers in a row of one process, within $wait seconds. One answer may come from a program that ends
# right after it.
becomes() {
  end=$(($(date +%s) + wait)) good=0 url=http://$(http_address)$1 which=''
  while :; do
    before_it=$which which=$(process)
    if [ "$(state)" != up ] || ! answers "$url"; then good=0
    elif [ "$which" = "$before_it" ]; then good=$((good + 1))
    else good=1
    fi
    [ $good -lt 3 ] || return 0
    [ "$(date +%s)" -lt $end ] || return 1
    sleep "$pause"
  done
}

log_hint() {
  case $service in
    systemd) echo "journalctl -u $name -n 50" ;;
    *) echo "tail -n 50 /var/log/tidegate/$role.log" ;;
  esac
}

# --- files

# As root with the right owners; somebody else can only lay files out for a package.
own() { # OWNER MODE PATH
  chmod "$2" "$3"
  if [ "$(id -u)" = 0 ] && { [ -z "$root" ] || id "$user" >/dev/null 2>&1; }; then chown "$1" "$3"; fi
}

directory() { # OWNER MODE PATH
  [ -d "$3" ] || { mkdir -p "$3" && own "$1" "$2" "$3"; }
}

# FROM TO MODE: in one step, or not at all; 1 if TO was the same already.
place() {
  ! cmp -s "$1" "$2" || return 1
  mkdir -p "$(dirname "$2")"
  cp "$1" "$2.new" || { rm -f "$2.new"; fail "cannot write $2.new; nothing was replaced"; }
  chmod "$3" "$2.new"
  sync "$2.new" 2>/dev/null || sync
  mv -f "$2.new" "$2" || fail "cannot write $2; nothing was replaced"
}

make_user() {
  [ -z "$root" ] || return 0
  ! id "$user" >/dev/null 2>&1 || return 0
  if command -v useradd >/dev/null 2>&1; then
    shell=/usr/sbin/nologin
    [ -x $shell ] || shell=/sbin/nologin
    useradd --system --user-group --home-dir /var/lib/tidegate --no-create-home --shell $shell "$user"
  else
    addgroup -S "$user" 2>/dev/null || :
    adduser -S -D -H -h /var/lib/tidegate -s /sbin/nologin -G "$user" "$user"
  fi
  say "made the user $user"
}

# The example with its data where the service may write.
make_config() {
  directory "root:$user" 0750 "$root/etc/tidegate"
  # The program gives keys to the owner of their directory.
  directory "$user:$user" 0750 "$root/etc/tidegate/tls"
  directory "$user:$user" 0750 "$root$data"
  [ ! -e "$config" ] || return 0
  example=$here/../config/$role.toml
  [ -r "$example" ] || example=$root/usr/share/doc/tidegate/$role.toml
  [ -r "$example" ] || refuse "the example config/$role.toml is missing beside deploy/install.sh; unpack the whole release"
  sed -e 's|^#data_dir = .*|data_dir = "/var/lib/tidegate"|' \
    -e 's|^#dir = "./tidegate-events"|dir = "/var/lib/tidegate-cloud/events"|' \
    -e 's|^#dir = "./tidegate-models"|dir = "/var/lib/tidegate-cloud/models"|' "$example" >"$config.new"
  own "root:$user" 0640 "$config.new"
  mv "$config.new" "$config"
  say "made $config from the example"
}

# 0 if the unit is another one now.
make_unit() {
  [ -n "$unit" ] || return 1
  case $service in systemd) from=$here/systemd/$name.service mode=0644 ;; openrc) from=$here/openrc/$name mode=0755 ;; esac
  [ -r "$from" ] || fail "$from is missing; unpack the whole release"
  scratch=$(mktemp)
  sed "s|/usr/bin/tidegate|$prefix/bin/tidegate|" "$from" >"$scratch"
  changed=1
  ! place "$scratch" "$unit" "$mode" || changed=0
  rm -f "$scratch"
  if [ "$service" = openrc ] && [ -d "$root/etc/logrotate.d" ]; then
    place "$here/openrc/tidegate.logrotate" "$root/etc/logrotate.d/tidegate" 0644 || :
  fi
  return $changed
}

# The program must run on this machine and accept the configuration that is there, before anything is replaced.
try_program() {
  if [ ! -f "$1" ] || [ ! -r "$1" ]; then refuse "$1: there is no such file, or it cannot be read"; fi
  scratch=$(mktemp -d)
  cp "$1" "$scratch/tidegate"
  chmod 0755 "$scratch/tidegate"
  result=0 why=''
  why=$("$scratch/tidegate" --version 2>&1) || result=1
  if [ $result = 0 ] && [ -e "$config" ]; then
    why=$(with_variables "$scratch/tidegate" check "--$role" "$config" 2>&1) || result=2
  fi
  rm -rf "$scratch"
  case $result in
    1)
      [ $start = 1 ] || { warn "$1 does not run here ($why); laid out all the same"; return 0; }
      refuse "$1 does not run on this machine ($(uname -m)), nothing was changed: $why" ;;
    2) refuse "$1 does not accept $config, nothing was changed:
$why" ;;
  esac
}

# --- install, upgrade, rollback

need_client() {
  [ $start = 0 ] || command -v curl >/dev/null 2>&1 || command -v wget >/dev/null 2>&1 ||
    refuse "curl or wget is needed to ask whether the service is ready; install one of them"
}

previous_back() {
  [ -e "$program.previous" ] || fail "the new program did not become ready, and there is none before it. See: $(log_hint)"
  mv -f "$program.previous" "$program"
  [ -z "${unit_before:-}" ] || { mv -f "$unit_before" "$unit" && manager reload-units; }
  manager restart || :
  waited=$wait
  [ "$wait" -ge 60 ] || wait=60 # it is known to become ready, and there is nothing else to try
  if becomes "$1"; then
    warn "the new program did not become ready within $waited s; the one before is back and answers. See: $(log_hint)"
    exit $EXIT_BACK
  fi
  fail "the new program did not become ready within $waited s, and the one before is back but does not answer either. See: $(log_hint)"
}

install() {
  need_client
  try_program "$binary"
  make_user
  make_config
  before=$(state) had_program=0 fresh=0
  [ ! -e "$program" ] || had_program=1
  if [ -n "$unit" ] && [ ! -e "$unit" ]; then fresh=1; fi
  # What must be true afterwards.
  goal=/readyz
  if [ "$role-$fresh" = cloud-1 ]; then goal=/healthz; fi
  if [ "$before" = up ] && ! answers "http://$(http_address)/readyz"; then goal=/healthz; fi
  replaced=0 unit_before=''
  if ! cmp -s "$binary" "$program"; then
    if [ $had_program = 1 ]; then
      ln -f "$program" "$program.previous" 2>/dev/null || cp -p "$program" "$program.previous"
    fi
    ! place "$binary" "$program" 0755 || replaced=1
  fi
  if [ -n "$unit" ] && [ $fresh = 0 ]; then
    unit_before=$(mktemp)
    cp -p "$unit" "$unit_before"
  fi
  unit_changed=0
  ! make_unit || unit_changed=1
  if [ $start = 1 ] && [ $unit_changed = 1 ]; then manager reload-units; fi
  if [ $start = 1 ]; then run; else say "installed $program ($role); nothing was started"; fi
  [ -z "$unit_before" ] || rm -f "$unit_before"
}

# Starts or restarts as far as needed, and goes back if that fails.
run() {
  if [ $fresh = 1 ]; then
    manager enable
  elif [ "$before" = down ]; then
    say "installed $program; $name was stopped and stays so"
    return
  elif [ "$before" = up ] && [ $replaced = 0 ] && [ $unit_changed = 0 ]; then
    say "$name is installed and runs; nothing to do"
    return
  fi
  manager restart || :
  if ! becomes $goal; then
    if [ $replaced = 1 ] && [ $had_program = 1 ]; then previous_back $goal; fi
    fail "$name is installed but did not answer $goal within $wait s. See: $(log_hint)"
  fi
  say "$name runs: http://$(http_address)$goal answers"
  if [ $replaced = 1 ] && [ -n "$other_unit" ] && [ -e "$other_unit" ]; then
    say "tidegate-$other uses the same program: restart it when it suits"
  fi
}

rollback() {
  [ -e "$program.previous" ] || refuse "there is no $program.previous"
  binary=$(mktemp)
  cp "$program.previous" "$binary"
  trap 'rm -f "$binary"' EXIT
  install
}

uninstall() {
  if [ -n "$unit" ] && [ -e "$unit" ]; then
    if [ -z "$root" ] || [ $start = 1 ]; then
      manager stop || :
      [ "$(state)" != up ] || fail "$name does not stop; nothing was removed"
      manager disable || :
    fi
    rm -f "$unit"
    if [ -z "$root" ] || [ $start = 1 ]; then manager reload-units; fi
  fi
  last=1
  if [ -n "$other_unit" ] && [ -e "$other_unit" ]; then last=0; fi
  if [ $last = 1 ]; then
    rm -f "$program" "$program.previous" "$program.new" "$root/etc/logrotate.d/tidegate"
  fi
  if [ -n "$purge" ]; then
    rm -rf "$root${data:?}" "$config" "$env_file"
    if [ $last = 1 ]; then
      rm -rf "$root/etc/tidegate" "$root/var/log/tidegate"
      if [ -z "$root" ] && id "$user" >/dev/null 2>&1; then
        if command -v userdel >/dev/null 2>&1; then userdel "$user"; else deluser "$user"; fi
      fi
    fi
    say "removed $name with its data"
  else
    say "removed $name; $data and /etc/tidegate stay (--purge removes them, events not yet delivered among them)"
  fi
}

case $action in
  install)
    [ -n "$binary" ] || refuse "say which program to install: --binary FILE"
    install ;;
  rollback) rollback ;;
  uninstall) uninstall ;;
esac
