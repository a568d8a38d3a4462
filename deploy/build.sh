#!/usr/bin/env bash
# Builds a static binary for a gateway: deploy/build.sh TARGET [--inference]. `deploy/build.sh --help` tells more.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh

usage() {
  cat <<'HELP'
usage: deploy/build.sh aarch64|x86_64|armv7 [--inference] [--with cross|packages|here] [--dir DIR]

Builds Tidegate as one static, stripped program and puts it into DIR/tidegate-TARGET (dist/tidegate-TARGET). It is checked to
be static and to be of that architecture, and its size is printed.

  --inference    with models that score events (docs/inference.md): larger
  --with cross   in a container with musl, by `cross` (github.com/cross-rs/cross) and cross.toml; all three targets
  --with here    with this machine's Rust and its glibc; x86_64 only, the default there
  --with packages
                 with Debian's own Rust, nothing else: the packages rustc-web, cargo-web, libstd-rust-web-dev of the target and
                 its C compiler are installed when this runs as root; aarch64 and x86_64, the default for aarch64

A build takes seven minutes on two cores and 3 GiB of memory. With glibc host names are resolved by /etc/hosts and DNS as
/etc/nsswitch.conf says; other services of that file (mDNS, LDAP) are not there in a static program.
HELP
}

fail() { echo "build.sh: $1" >&2; exit "${2:-1}"; }

target='' with='' dir=dist features=()
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --inference) features=(--features inference) ;;
    --with) with=${2:-}; shift ;;
    --dir) dir=${2:-}; shift ;;
    aarch64|x86_64|armv7) target=$1 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift
done
[ -n "$target" ] || { usage >&2; exit 64; }
case $target in
  x86_64) with=${with:-here} machine='Advanced Micro Devices X86-64' triple=x86_64-unknown-linux-gnu ;;
  aarch64) with=${with:-packages} machine=AArch64 triple=aarch64-unknown-linux-gnu ;;
  armv7) with=${with:-cross} machine=ARM triple=armv7-unknown-linux-gnueabihf ;;
esac
# Not position independent: the program is a megabyte of relocations smaller, and has nothing to relocate at each start.
flags='-C target-feature=+crt-static -C relocation-model=static'
build=(build --locked --release --bin tidegate "${features[@]}")

case $with in
  cross)
    command -v cross >/dev/null || fail 'cross is missing. Install it ("cargo install cross"; it needs Docker or Podman), or take --with packages' 64
    case $target in armv7) triple=armv7-unknown-linux-musleabihf ;; *) triple=$target-unknown-linux-musl ;; esac
    CROSS_CONFIG=cross.toml cross "${build[@]}" --target $triple
    ;;
  here)
    [ $target = "$(uname -m)" ] || fail "this machine is $(uname -m): take --with packages or --with cross" 64
    need_rust
    need protoc=protobuf-compiler cc=build-essential readelf=binutils
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS=$flags cargo "${build[@]}" --target $triple
    ;;
  packages)
    need protoc=protobuf-compiler cc=build-essential readelf=binutils
    [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] || need_package rustc-web cargo-web
    case $target in
      x86_64) need_package libstd-rust-web-dev ;;
      aarch64)
        need aarch64-linux-gnu-gcc=gcc-aarch64-linux-gnu
        need_package libc6-dev-arm64-cross
        if [ ! -e /usr/lib/rustlib/$triple/lib ]; then
          [ "$(id -u)" != 0 ] || dpkg --add-architecture arm64
          need_package libstd-rust-web-dev:arm64
        fi
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
        ;;
      armv7) fail 'Debian has no Rust for armv7 that runs on other machines: take --with cross' 64 ;;
    esac
    # By their paths: another Rust may come first. Its rustc has a version of its own, so the directory is its own as well.
    export RUSTC=/usr/bin/rustc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/packages
    env "CARGO_TARGET_${target^^}_UNKNOWN_LINUX_GNU_RUSTFLAGS=$flags" /usr/bin/cargo "${build[@]}" --target $triple
    ;;
  *) fail "--with $with: cross, packages or here" 64 ;;
esac

built=${CARGO_TARGET_DIR:-target}/$triple/release/tidegate
readelf -h "$built" | grep -q "Machine: *$machine" || fail "$built is for another machine than $target"
if readelf -d "$built" | grep -q NEEDED || readelf -l "$built" | grep -q INTERP; then fail "$built is not static"; fi
mkdir -p "$dir"
cp "$built" "$dir/tidegate-$target"
echo "$dir/tidegate-$target: $(stat -c %s "$dir/tidegate-$target") bytes, static"
