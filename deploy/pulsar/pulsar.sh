#!/usr/bin/env bash
# A real standalone Pulsar for development, tests and CI. `pulsar.sh --help` explains it.
set -euo pipefail

readonly VERSION=4.0.7
readonly IMAGE="apachepulsar/pulsar:$VERSION"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
readonly here root
readonly cache="${TIDEGATE_PULSAR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidegate/pulsar-$VERSION}"

# A start takes 5 to 15 s; recovery after a kill under load on a slow disk takes longer.
readonly READY_SECONDS_DEFAULT=120
# A clean stop takes 1 to 3 s. After this it is kill -9, which the settings in broker.conf are made for.
readonly STOP_SECONDS=30
# A fetch by another process: about 240 MB over a slow link.
readonly FETCH_LOCK_SECONDS=1800

readonly EXIT_NOT_RUNNING=3 EXIT_USAGE=64 EXIT_MISSING=69 EXIT_INTERNAL=70 EXIT_TEMPORARY=75

help() {
  cat <<HELP
A real standalone Apache Pulsar $VERSION on this machine, without containers.

usage: pulsar.sh COMMAND [OPTIONS]

  start     start it, wait until it can be used, print its addresses; does nothing when it runs
  stop      ask it to stop, kill -9 after $STOP_SECONDS s; data stays
  kill      kill -9 at once, for fault tests; data stays
  restart   stop, then start with the options of the last start
  status    running or not: exit 0 or $EXIT_NOT_RUNNING
  logs      print the log's end (--lines N, --follow)
  env       print PULSAR_SERVICE_URL and others for: eval "\$(pulsar.sh env)"
  fetch     only get Pulsar's files (240 MB, once per machine) into
            $cache

which instance
  --name NAME         instance and cluster name (default: standalone)
  --dir DIR           its data, logs, pid (default: .work/pulsar/NAME in the repository)

how it starts (remembered in DIR: a later start or restart needs only --name or --dir)
  --port N            binary protocol (default: 6650)
  --web-port N        admin REST (default: 8080)
  --bookie-port N     bookie (default: 3181)
  --conf KEY=VALUE    a broker or bookie setting, on top of broker.conf; may be repeated
  --heap SIZE         Java heap, and as much direct memory again (default: 512m)
  --tls-port N, --tls-web-port N, --tls-cert FILE, --tls-key FILE, --tls-ca FILE
                      TLS as well, PEM files; clients' certificates: --conf tlsRequireTrustedClientCertOnConnect=true
  --admin-token FILE  the token for start's own calls, when --conf turns authentication on
  --log-level LEVEL   info, debug, warn (default: info)

for this start only
  --fresh             delete the instance's data first
  --wait SECONDS      how long start waits (default: $READY_SECONDS_DEFAULT)
  --via HOW           home, maven or container (default: the first that is possible)
  --no-install        never install Debian packages, even as root

where Pulsar comes from, in this order
  home        PULSAR_HOME, an unpacked Pulsar, with Java 17 or later
  maven       the jars of pulsar-broker $VERSION through Maven, with Java 17 or later
  container   docker or podman with $IMAGE

examples
  pulsar.sh start
  pulsar.sh start --name east --port 16650 --web-port 18080 --bookie-port 13181
  pulsar.sh kill --name east && pulsar.sh start --name east
  pulsar.sh start --conf allowAutoTopicCreation=true --fresh

exit codes: 0 done, $EXIT_NOT_RUNNING not running, $EXIT_USAGE wrong usage, $EXIT_MISSING Java, Maven or Pulsar missing,
            $EXIT_TEMPORARY port in use or not ready in time, $EXIT_INTERNAL other
HELP
}

say() { printf 'pulsar: %s\n' "$*" >&2; }
die() {
  local code=$1
  shift
  printf 'pulsar: error: %s\n' "$*" >&2
  exit "$code"
}

# ---- options ------------------------------------------------------------------------------------------------------

name='' dir='' fresh=no wait_seconds=$READY_SECONDS_DEFAULT via='' install=yes lines=60 follow=no
# What an instance remembers. An empty value means: as remembered, else the default.
declare -A opt=()
readonly REMEMBERED="name port web-port bookie-port heap tls-port tls-web-port tls-cert tls-key tls-ca admin-token log-level"
declare -A defaults=([port]=6650 [web-port]=8080 [bookie-port]=3181 [heap]=512m [log-level]=info)
given_conf=() conf=()

check_number() { [[ $2 =~ ^[0-9]+$ && ${#2} -le 5 ]] && (($2 >= 1 && $2 <= 65535)) || die $EXIT_USAGE "$1 wants a number from 1 to 65535, not '$2'"; }

set_option() {
  local key=${1#--} value=$2
  case $1 in
    --name)
      [[ $value =~ ^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$ ]] || die $EXIT_USAGE "--name wants letters, digits, - and _, not '$value'"
      name=$value
      ;;
    --dir) dir=$value ;;
    --conf)
      [[ $value =~ ^[A-Za-z0-9_.-]+= ]] || die $EXIT_USAGE "--conf wants KEY=VALUE, not '$value'"
      [[ $value != *$'\n'* ]] || die $EXIT_USAGE "--conf wants one line: ${value%%=*}"
      given_conf+=("$value")
      ;;
    --port | --web-port | --bookie-port | --tls-port | --tls-web-port)
      check_number "$1" "$value"
      opt[$key]=$value
      ;;
    --heap)
      [[ $value =~ ^[0-9]+[mMgG]$ ]] || die $EXIT_USAGE "--heap wants a size such as 512m or 2g, not '$value'"
      opt[$key]=$value
      ;;
    --tls-cert | --tls-key | --tls-ca | --admin-token)
      [[ -r $value ]] || die $EXIT_USAGE "$1: cannot read '$value'"
      opt[$key]=$(cd "$(dirname "$value")" && pwd -P)/$(basename "$value")
      ;;
    --log-level)
      [[ $value =~ ^(trace|debug|info|warn|error)$ ]] || die $EXIT_USAGE "--log-level wants debug, info, warn or error, not '$value'"
      opt[$key]=$value
      ;;
    --wait) check_number "$1" "$value" && wait_seconds=$value ;;
    --lines) check_number "$1" "$value" && lines=$value ;;
    --via)
      [[ $value =~ ^(home|maven|container)$ ]] || die $EXIT_USAGE "--via wants home, maven or container, not '$value'"
      via=$value
      ;;
    *) die $EXIT_USAGE "unknown option $1 (pulsar.sh --help)" ;;
  esac
}

parse() {
  while (($#)); do
    case $1 in
      -h | --help) help && exit 0 ;;
      --fresh) fresh=yes && shift ;;
      --no-install) install=no && shift ;;
      -f | --follow) follow=yes && shift ;;
      --*=*) set_option "${1%%=*}" "${1#*=}" && shift ;;
      --name | --dir | --conf | --port | --web-port | --bookie-port | --heap | --tls-* | --admin-token | --log-level | --wait | --lines | --via)
        (($# >= 2)) || die $EXIT_USAGE "$1 wants a value (pulsar.sh --help)"
        set_option "$1" "$2" && shift 2
        ;;
      -*) die $EXIT_USAGE "unknown option $1 (pulsar.sh --help)" ;;
      *) die $EXIT_USAGE "unexpected argument '$1' (pulsar.sh --help)" ;;
    esac
  done
}

locate() {
  [[ -n $dir ]] || dir="$root/.work/pulsar/${name:-standalone}"
  [[ $dir == /* ]] || dir="$PWD/$dir"
  # One spelling, for the process is recognised by it.
  dir=$(realpath -m -- "$dir" 2>/dev/null || printf '%s' "${dir%/}")
  # Java splits some of its arguments at these, and the generated file is read as properties.
  [[ $dir =~ ^[A-Za-z0-9_./+@%=-]+$ ]] || die $EXIT_USAGE "--dir: '$dir' has characters that Pulsar cannot have in a path; give another --dir"
}

# Fills opt and conf: given, else remembered, else default.
recall() {
  local line key value
  declare -A remembered=() conf_of=()
  local remembered_conf=() order=()
  if [[ -f $dir/options ]]; then
    while IFS= read -r line; do
      key=${line%%=*} value=${line#*=}
      if [[ $key == conf ]]; then remembered_conf+=("$value"); else remembered[$key]=$value; fi
    done <"$dir/options"
  fi
  if [[ -n $name && -n ${remembered[name]:-} && $name != "${remembered[name]}" && $fresh == no ]]; then
    die $EXIT_USAGE "$dir belongs to '${remembered[name]}', not '$name'; give another --dir (or start --fresh)"
  fi
  opt[name]=${name:-${remembered[name]:-standalone}}
  for key in $REMEMBERED; do
    opt[$key]=${opt[$key]:-${remembered[$key]:-${defaults[$key]:-}}}
  done
  name=${opt[name]}
  # The bookie's port is part of its identity, written into every ledger's metadata.
  if [[ -d $dir/data && $fresh == no && -n ${remembered[bookie-port]:-} && ${remembered[bookie-port]} != "${opt[bookie-port]}" ]]; then
    die $EXIT_USAGE "the data in $dir was written with --bookie-port ${remembered[bookie-port]}; keep it or start --fresh"
  fi
  [[ $fresh == no ]] || remembered_conf=()
  for line in ${remembered_conf[@]+"${remembered_conf[@]}"} ${given_conf[@]+"${given_conf[@]}"}; do
    [[ -n ${conf_of[${line%%=*}]+x} ]] || order+=("${line%%=*}")
    conf_of[${line%%=*}]=${line#*=}
  done
  conf=()
  for key in ${order[@]+"${order[@]}"}; do conf+=("$key=${conf_of[$key]}"); done
}

# The same for an instance that runs: what it was started with counts, not what is given now.
recall_running() {
  local key line other=no
  declare -A given=()
  for key in "${!opt[@]}"; do given[$key]=${opt[$key]}; done
  local wanted=(${given_conf[@]+"${given_conf[@]}"})
  opt=() given_conf=()
  [[ $fresh == no ]] || other=yes
  fresh=no
  recall
  for key in "${!given[@]}"; do [[ ${given[$key]} == "${opt[$key]}" ]] || other=yes; done
  for line in ${wanted[@]+"${wanted[@]}"}; do grep -qxF -- "$line" "$dir/generated.conf" || other=yes; done
  [[ $other == no ]] || say "it runs already, with other options than these: they take effect with restart"
}

remember() {
  local key line
  {
    for key in $REMEMBERED; do [[ -z ${opt[$key]} ]] || printf '%s=%s\n' "$key" "${opt[$key]}"; done
    for line in ${conf[@]+"${conf[@]}"}; do printf 'conf=%s\n' "$line"; done
  } >"$dir/options.new"
  mv -f "$dir/options.new" "$dir/options"
}

service_url() { printf 'pulsar://127.0.0.1:%s' "${opt[port]}"; }
admin_url() { printf 'http://127.0.0.1:%s' "${opt[web-port]}"; }

# ---- the process --------------------------------------------------------------------------------------------------
# DIR/pid holds a process id, DIR/container a container's name with its engine: one of the two.

engine_of() { cut -d' ' -f1 "$dir/container"; }
container_of() { cut -d' ' -f2 "$dir/container"; }

# Prints the process id of the running instance, or fails. A number taken by a stranger after a reboot is not ours.
running_pid() {
  local pid state
  if [[ -f $dir/container ]]; then
    state=$("$(engine_of)" inspect -f '{{.State.Running}} {{.State.Pid}}' "$(container_of)" 2>/dev/null) || return 1
    [[ $state == true\ * ]] && printf '%s\n' "${state#* }"
    return
  fi
  [[ -f $dir/pid ]] || return 1
  pid=$(<"$dir/pid")
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  alive "$pid" && ps -ww -o args= -p "$pid" 2>/dev/null | grep -qF -- "--config $dir/generated.conf" || return 1
  printf '%s\n' "$pid"
}

# A killed process loses its arguments first, then its ports, and is a zombie with threads for a while in between. One
# without threads has ended; in a container without an init nobody may ever reap it.
alive() {
  local state
  state=$(ps -o stat= -p "$1" 2>/dev/null) && [[ $state != Z* || $state == *l* ]]
}

signal() { # TERM or KILL
  local pid
  if [[ -f $dir/container ]]; then
    "$(engine_of)" kill --signal "$1" "$(container_of)" >/dev/null 2>&1 || true
  elif pid=$(running_pid); then
    signalled=$pid
    kill -s "$1" "$pid" 2>/dev/null || true
  fi
}
signalled=''

wait_gone() { # seconds
  local end=$((SECONDS + $1))
  while running_pid >/dev/null || { [[ -n $signalled ]] && alive "$signalled"; }; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
  if [[ -f $dir/container ]]; then "$(engine_of)" rm -f "$(container_of)" >/dev/null 2>&1 || true; fi
  rm -f "$dir/pid" "$dir/container"
}

# One start or stop of an instance at a time. `kill` does not wait for this lock: it may come in the middle of a start.
# Descriptor 9 must not reach Java, or the lock would live as long as the broker.
lock_instance() {
  exec 9>"$dir/lock"
  flock -w "$((wait_seconds + STOP_SECONDS))" 9 || die $EXIT_TEMPORARY "another pulsar.sh has been busy with $dir for too long"
}

# ---- Java, Maven, Pulsar's files ------------------------------------------------------------------------------------

# Prints the first Java that is 17 or later.
find_java() {
  local candidate major
  for candidate in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)" /usr/lib/jvm/*17*/bin/java /usr/lib/jvm/*21*/bin/java; do
    [[ -n $candidate && -x $candidate ]] || continue
    major=$("$candidate" -version 2>&1 </dev/null | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
    if [[ -n $major ]] && ((major >= 17)); then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}

can_install() { [[ $install == yes && $(id -u) == 0 ]] && command -v apt-get >/dev/null; }

updated=no
apt_install() {
  say "installing Debian packages: $*"
  if [[ $updated == no ]]; then apt-get -qq update >/dev/null </dev/null || say "apt-get update failed; trying with the lists there are"; fi
  updated=yes
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >/dev/null </dev/null
}

# Sets java, or says what is missing.
java=''
need_java() {
  java=$(find_java) && return
  if can_install; then
    apt_install openjdk-17-jre-headless || apt_install openjdk-21-jre-headless || true
    java=$(find_java) && return
  fi
  missing+=("Java 17 or later: none in JAVA_HOME, PATH or /usr/lib/jvm (Debian: apt-get install openjdk-17-jre-headless)")
  if [[ -z ${PULSAR_HOME:-} ]] && ! cached && ! command -v mvn >/dev/null; then missing+=("$no_maven"); fi
  return 1
}

readonly no_maven="Maven: no mvn in PATH (Debian: apt-get install maven)"
need_maven() {
  command -v mvn >/dev/null && return
  if can_install && apt_install maven; then return; fi
  missing+=("$no_maven")
  return 1
}

cached() { [[ -f $cache/complete ]]; }

# Fills the cache. Complete or absent: the directory appears by one rename, under a lock that is this machine's.
fetch_jars() {
  if cached; then return; fi
  mkdir -p "$(dirname "$cache")"
  exec 8>"$cache.lock"
  flock -n 8 || { say "another process is fetching Pulsar; waiting" && flock -w $FETCH_LOCK_SECONDS 8; } ||
    die $EXIT_TEMPORARY "another process has held $cache.lock for $FETCH_LOCK_SECONDS s"
  if ! cached; then download_jars || return 1; fi
  exec 8>&-
}

download_jars() {
  local work="$cache.new" started=$SECONDS maven_pid count show=no
  need_maven || return 1
  rm -rf "$work" "$cache"
  mkdir -p "$work/lib"
  say "fetching Pulsar $VERSION with Maven into $cache (about 240 MB, once)"
  [[ -t 2 ]] && show=yes
  JAVA_HOME=$(java_home) mvn -B -ntp -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
    -Dpulsar.version="$VERSION" -DoutputDirectory="$work/lib" >"$work/maven.log" 2>&1 </dev/null 8>&- 9>&- &
  maven_pid=$!
  while kill -0 "$maven_pid" 2>/dev/null; do
    if [[ $show == yes ]]; then printf '\rpulsar: %3d jars, %3d s ' "$(find "$work/lib" -name '*.jar' | wc -l)" $((SECONDS - started)) >&2; fi
    sleep 0.5
  done
  if [[ $show == yes ]]; then printf '\n' >&2; fi
  if ! wait "$maven_pid" || [[ ! -f $work/lib/pulsar-broker-$VERSION.jar ]]; then
    grep -E '^\[ERROR\]' "$work/maven.log" | head -n 8 >&2 || true
    missing+=("Pulsar's files: Maven could not fetch them (all it said: $work/maven.log); a mirror or proxy belongs in ~/.m2/settings.xml")
    return 1
  fi
  count=$(find "$work/lib" -name '*.jar' | wc -l)
  printf '%s\n' "$count" >"$work/complete"
  sync -f "$work" 2>/dev/null || true
  mv "$work" "$cache"
  say "$count jars in $((SECONDS - started)) s"
}

# Maven must run on the Java that was found, not on an older one that JAVA_HOME names.
java_home() {
  local bin
  bin=$(readlink -f "$java" 2>/dev/null || printf '%s' "$java")
  dirname "$(dirname "$bin")"
}

find_engine() {
  local engine
  for engine in docker podman; do
    if command -v "$engine" >/dev/null && timeout 10 "$engine" info >/dev/null 2>&1 </dev/null; then
      printf '%s\n' "$engine"
      return
    fi
  done
  return 1
}

# Sets how (java or container), and libs or engine. Collects what is missing on the way, to say it all at once.
how='' libs='' engine='' missing=()
get_pulsar() {
  if [[ -z $via || $via == home ]]; then
    if [[ -n ${PULSAR_HOME:-} ]]; then
      compgen -G "$PULSAR_HOME/lib/*pulsar-broker-[0-9]*.jar" >/dev/null ||
        die $EXIT_MISSING "PULSAR_HOME=$PULSAR_HOME has no lib/*pulsar-broker-*.jar; point it at an unpacked Pulsar or unset it"
      libs=$PULSAR_HOME/lib
      if need_java; then how=java && return; fi
    elif [[ $via == home ]]; then
      die $EXIT_USAGE "--via home wants PULSAR_HOME"
    fi
  fi
  if [[ $via != home && $via != container ]]; then
    if need_java && fetch_jars; then
      how=java libs=$cache/lib
      return
    fi
  fi
  if [[ -z $via || $via == container ]]; then
    if engine=$(find_engine); then
      "$engine" image inspect "$IMAGE" >/dev/null 2>&1 || "$engine" pull "$IMAGE" >&2
      how=container libs=/pulsar/lib
      return
    fi
    missing+=("a container engine: neither docker nor podman answers")
  fi
  say "error: no way to have Pulsar $VERSION here. One of these is enough (Java and Maven go together):"
  printf '  - %s\n' "${missing[@]}" >&2
  exit $EXIT_MISSING
}

# ---- start --------------------------------------------------------------------------------------------------------

# broker.conf, then this instance's settings, then --conf. Each key once: the bookie would take the first of two, the broker the last.
write_conf() {
  {
    cat "$here/broker.conf"
    cat <<CONF
clusterName=$name
metadataStoreUrl=
configurationMetadataStoreUrl=
bindAddress=127.0.0.1
advertisedAddress=127.0.0.1
listeningInterface=$(loopback)
brokerServicePort=${opt[port]}
webServicePort=${opt[web-port]}
CONF
    local pair
    for pair in tls-port=brokerServicePortTls tls-web-port=webServicePortTls tls-cert=tlsCertificateFilePath \
      tls-key=tlsKeyFilePath tls-ca=tlsTrustCertsFilePath; do
      [[ -z ${opt[${pair%%=*}]} ]] || printf '%s=%s\n' "${pair#*=}" "${opt[${pair%%=*}]}"
    done
    for pair in ${conf[@]+"${conf[@]}"}; do printf '%s\n' "$pair"; done
  } | awk '/^[[:space:]]*(#|$)/ { next }
      { key = $0; sub(/=.*/, "", key); if (!(key in value)) order[++n] = key; value[key] = $0 }
      END { for (i = 1; i <= n; i++) print value[order[i]] }' >"$dir/generated.conf"
}

loopback() { if [[ $(uname) == Darwin ]]; then echo lo0; else echo lo; fi; }

# The arguments after `java`.
java_arguments() {
  local module cpus
  cpus=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
  args=(-Xms128m "-Xmx${opt[heap]}" "-XX:MaxDirectMemorySize=${opt[heap]}" -XX:+UseG1GC -XX:+ExitOnOutOfMemoryError
    # Threads and their buffers grow with the cores; a large machine must not need a larger --heap.
    "-XX:ActiveProcessorCount=$((cpus > 8 ? 8 : cpus))"
    -Dio.netty.tryReflectionSetAccessible=true -Djava.net.preferIPv4Stack=true
    -Dio.netty.leakDetection.level=disabled
    "-Dlog4j2.configurationFile=$dir/log4j2.xml" "-Dtidegate.pulsar.logs=$dir/logs" "-Dtidegate.pulsar.level=${opt[log-level]}"
    "-XX:ErrorFile=$dir/logs/crash-%p.log")
  for module in java.base/{java.lang,java.util,sun.net,java.nio,jdk.internal.misc,jdk.internal.loader,java.util.zip,jdk.internal.platform} java.management/sun.management; do
    args+=(--add-opens "$module=ALL-UNNAMED")
  done
  args+=(-cp "$libs/*" org.apache.pulsar.PulsarStandaloneStarter --config "$dir/generated.conf" --no-functions-worker --no-stream-storage
    --metadata-dir "$dir/data/metadata" --bookkeeper-dir "$dir/data/bookkeeper" --bookkeeper-port "${opt[bookie-port]}")
}

# The host's network, so that addresses mean the same inside and outside and two instances reach each other.
in_container() { # the engine's options, then --, then the arguments of java
  local options=()
  while [[ $1 != -- ]]; do options+=("$1") && shift; done
  shift
  "$engine" run "${options[@]}" --network host --user "$(id -u):$(id -g)" -v "$dir:$dir" -w "$dir" --entrypoint java "$IMAGE" "$@"
}

# What an unclean end leaves in the metadata store is the old bookie's registration. The new bookie deletes it while it
# registers, and when it hears of that deletion too late it takes it for its own and deletes and registers for ever,
# some hundred times a second (seen in 2 of 6 starts after kill -9, 5 to 37 s each). Any reader drops such a leftover,
# so a listing of the bookies before the start does it, in 0.7 s.
forget_old_bookie() {
  local drivers=org.apache.pulsar.metadata.bookkeeper
  local shell=(-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx128m "-Dbookkeeper.metadata.bookie.drivers=$drivers.PulsarMetadataBookieDriver"
    "-Dbookkeeper.metadata.client.drivers=$drivers.PulsarMetadataClientDriver" "-Dlog4j2.configurationFile=$dir/log4j2.xml"
    "-Dtidegate.pulsar.logs=$dir/logs" -Dtidegate.pulsar.level=off -cp "$libs/*" org.apache.bookkeeper.bookie.BookieShell
    -conf "$dir/generated.conf.shell" listbookies -rw)
  { cat "$dir/generated.conf" && echo "metadataServiceUri=metadata-store:rocksdb://$dir/data/metadata"; } >"$dir/generated.conf.shell"
  if [[ $how == container ]]; then
    in_container --rm -- "${shell[@]}"
  else
    timeout 60 "$java" "${shell[@]}"
  fi >"$dir/logs/console.log" 2>&1 </dev/null 8>&- 9>&- || say "could not read the old metadata before the start; going on"
}

args=() launched=yes
launch() {
  local container
  java_arguments
  # Only a clean stop leaves this file.
  if [[ -d $dir/data/metadata && ! -f $dir/clean ]]; then forget_old_bookie; fi
  rm -f "$dir/clean"
  if [[ $how == container ]]; then
    container="tidegate-pulsar-$name-$(printf '%s' "$dir" | cksum | cut -d' ' -f1)"
    "$engine" rm -f "$container" >/dev/null 2>&1 || true
    printf '%s %s\n' "$engine" "$container" >"$dir/container"
    in_container -d --name "$container" -- "${args[@]}" >/dev/null 8>&- 9>&-
    return
  fi
  # A session of its own, no terminal, no inherited lock: it outlives this script and the shell or CI step around it.
  setsid nohup "$java" "${args[@]}" >"$dir/logs/console.log" 2>&1 </dev/null 8>&- 9>&- &
  local started=$! end=$((SECONDS + wait_seconds))
  printf '%s\n' "$started" >"$dir/pid"
  # Before it is Java it has this script's arguments, and would be taken for a stranger: on a busy machine for some time.
  while ! running_pid >/dev/null && alive "$started" && ((SECONDS < end)); do sleep 0.02; done
}

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

check_ports() { # seconds to wait for them
  local key port who end=$((SECONDS + $1))
  for key in port web-port bookie-port tls-port tls-web-port; do
    port=${opt[$key]}
    [[ -n $port ]] || continue
    while port_taken "$port" && ((SECONDS < end)); do sleep 0.1; done
    port_taken "$port" || continue
    who=$(ss -Hltnp "sport = :$port" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/ by \1, process \2/p' | head -n 1)
    die $EXIT_TEMPORARY "port $port is in use$who; stop it or give another --$key"
  done
}

rest() { # path: prints the HTTP status, 000 without an answer
  local header=()
  if [[ -n ${opt[admin-token]} ]]; then header=(-H "Authorization: Bearer $(<"${opt[admin-token]}")"); fi
  curl -s -o /dev/null -w '%{http_code}' --noproxy '*' --max-time 10 ${header[@]+"${header[@]}"} "$(admin_url)$1" || true
}

# Usable: the standalone's set-up is over (public/default exists) and a message went through broker and bookie and back
# (that is what the broker's health check does). Prints what is still missing.
not_ready_because() {
  local status
  status=$(rest /admin/v2/namespaces/public/default)
  case $status in
    200) ;;
    401 | 403) [[ -n ${opt[admin-token]} ]] && echo "admin REST refuses --admin-token ($status)" || { port_taken "${opt[port]}" || echo "no binary port"; } && return ;;
    *) echo "admin REST answers $status" && return ;;
  esac
  status=$(rest /admin/v2/brokers/health)
  [[ $status == 200 ]] || echo "health check answers $status"
}

fail_start() { # reason
  local file
  for file in pulsar.log console.log; do
    [[ -s $dir/logs/$file ]] || continue
    printf -- '--- the end of %s\n' "$dir/logs/$file" >&2
    tail -n 25 "$dir/logs/$file" | cut -c1-300 >&2
  done
  if [[ -f $dir/container ]]; then "$(engine_of)" logs --tail 25 "$(container_of)" >&2 2>&1 || true; fi
  if [[ $launched == no ]]; then die $EXIT_TEMPORARY "process $(running_pid || true) was running already, but: $1 (pulsar.sh restart)"; fi
  signal KILL
  wait_gone 10 || true
  say "error: $1"
  if grep -qsE 'Address already in use|BindException' "$dir/logs/pulsar.log" "$dir/logs/console.log"; then
    say "another program took one of the ports ${opt[port]}, ${opt[web-port]}, ${opt[bookie-port]} in the meantime: give others"
  elif grep -qsE 'OutOfMemoryError|OutOfDirectMemory' "$dir/logs/pulsar.log" "$dir/logs/console.log"; then
    say "it ran out of memory: give --heap 1g"
  elif grep -qs 'InvalidCookieException' "$dir/logs/pulsar.log"; then
    say "the data in $dir is another instance's: give another --dir, or --fresh to delete it"
  else
    say "what you can do: read the log above; a slow machine: --wait 300; data you do not need: --fresh"
  fi
  exit $EXIT_TEMPORARY
}

wait_ready() {
  local end=$((SECONDS + wait_seconds)) reason='no answer yet'
  while running_pid >/dev/null; do
    reason=$(not_ready_because)
    [[ -n $reason ]] || return 0
    ((SECONDS < end)) || fail_start "not ready after $wait_seconds s: $reason"
    sleep 0.2
  done
  fail_start "Pulsar ended while starting"
}

announce() { # what
  say "$1"
  printf 'service  %s\nadmin    %s\ncluster  %s\ndir      %s\n' "$(service_url)" "$(admin_url)" "$name" "$dir"
}

start() {
  local pid begun=$SECONDS tool
  for tool in flock setsid curl ps awk; do
    command -v "$tool" >/dev/null || die $EXIT_MISSING "$tool is missing (Debian: apt-get install util-linux curl procps gawk)"
  done
  mkdir -p "$dir/logs"
  lock_instance
  if pid=$(running_pid); then
    recall_running
    # It may be a start that was interrupted.
    launched=no
    wait_ready
    announce "running already, process $pid"
    return
  fi
  recall
  # Somebody else's kill -9 may not be through yet.
  local ending=0
  if [[ -f $dir/pid ]] && alive "$(<"$dir/pid")"; then ending=10; fi
  rm -f "$dir/pid" "$dir/container"
  if [[ $fresh == yes && -f $dir/options ]]; then rm -rf "$dir/data" "$dir/logs"; fi
  mkdir -p "$dir/logs" "$dir/data"
  check_ports "$ending"
  get_pulsar
  cp "$here/log4j2.xml" "$dir/log4j2.xml"
  rm -f "$dir/logs/console.log"
  write_conf
  remember
  begun=$SECONDS
  launch
  wait_ready
  announce "ready after $((SECONDS - begun)) s, process $(running_pid)"
}

stop() {
  if ! running_pid >/dev/null; then
    say "not running: $dir"
    return
  fi
  lock_instance
  signal TERM
  if wait_gone $STOP_SECONDS; then
    touch "$dir/clean"
    say "stopped"
    return
  fi
  say "still there after $STOP_SECONDS s: kill -9"
  kill_now
}

kill_now() {
  if ! running_pid >/dev/null; then
    say "not running: $dir"
    return
  fi
  signal KILL
  wait_gone 10 || die $EXIT_INTERNAL "process $signalled survived kill -9"
  say "killed"
}

status() {
  local pid
  if ! pid=$(running_pid); then
    say "not running: $dir"
    exit $EXIT_NOT_RUNNING
  fi
  announce "running, process $pid, $(ps -o rss= -p "$pid" | awk '{ printf "%d MB resident", $1 / 1024 }')"
}

logs() {
  [[ -s $dir/logs/pulsar.log || -s $dir/logs/console.log ]] || die $EXIT_NOT_RUNNING "no log in $dir/logs: it was never started"
  local files=()
  [[ ! -s $dir/logs/console.log ]] || files+=("$dir/logs/console.log")
  [[ ! -s $dir/logs/pulsar.log ]] || files+=("$dir/logs/pulsar.log")
  if [[ $follow == yes ]]; then exec tail -n "$lines" -F "${files[@]}"; fi
  tail -q -n "$lines" "${files[@]}"
}

print_env() {
  printf 'export PULSAR_SERVICE_URL=%q PULSAR_ADMIN_URL=%q PULSAR_CLUSTER=%q PULSAR_DIR=%q PULSAR_PID=%q\n' \
    "$(service_url)" "$(admin_url)" "$name" "$dir" "$(running_pid || true)"
}

main() {
  (($#)) || { help >&2 && exit $EXIT_USAGE; }
  local command=$1
  shift
  [[ $command != -h && $command != --help && $command != help ]] || { help && exit 0; }
  parse "$@"
  locate
  case $command in
    start) start ;;
    restart) stop && start ;;
    stop) recall && stop ;;
    kill) recall && kill_now ;;
    status) recall && status ;;
    logs) logs ;;
    env) recall && print_env ;;
    fetch) get_pulsar && say "Pulsar $VERSION is here: ${engine:+$engine, }$libs" ;;
    *) die $EXIT_USAGE "unknown command '$command' (pulsar.sh --help)" ;;
  esac
}

main "$@"
