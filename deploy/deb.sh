#!/usr/bin/env bash
# Makes the Debian package that [package.metadata.deb] in Cargo.toml describes, from a program that is built already, with dpkg-deb
# alone: also for another architecture, and without cargo-deb.
# usage: deploy/deb.sh --binary FILE [--arch amd64|arm64|armhf] [--version VERSION] [--out DIR]    (this machine's; Cargo.toml's; .)
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need.sh
need dpkg-deb=dpkg python3=python3
binary='' arch=$(dpkg --print-architecture) version='' out=.
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { sed -n 2,4p "$0" >&2; exit 64; }
  case $1 in
    --binary) binary=$2 ;;
    --arch) arch=$2 ;;
    --version) version=$2 ;;
    --out) out=$2 ;;
    *) echo "$1 is not known" >&2; exit 64 ;;
  esac
  shift 2
done
[ -f "$binary" ] || { echo "say which program: --binary FILE" >&2; exit 64; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"
python3 - "$work" "$binary" "$arch" "$version" <<'PYTHON'
import glob, os, pathlib, re, shutil, subprocess, sys, tomllib
root, binary, arch, version = pathlib.Path(sys.argv[1]), *sys.argv[2:]
package = tomllib.load(open("Cargo.toml", "rb"))["package"]
deb = package["metadata"]["deb"]
for source, target, mode in deb["assets"]:
    paths = [binary] if source == "target/release/tidegate" else sorted(glob.glob(source))
    assert paths, f"{source}: there is no such file"
    for path in paths:
        to = root / target / os.path.basename(source if path == binary else path)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        to.chmod(int(mode, 8))
doc = root / "usr/share/doc" / deb["name"]
(doc / "copyright").write_text(f"""Copyright: the authors of Tidegate
License: {package["license"]}; on Debian systems its text is in /usr/share/common-licenses/{package["license"]}.
""")
(doc / "copyright").chmod(0o644)

def needs():
    """What "$auto" stands for: a static program needs nothing, another one the C library that it was linked with."""
    elf = subprocess.run(["readelf", "--dynamic", "--version-info", binary], capture_output=True, text=True).stdout
    if "(NEEDED)" not in elf:
        return None
    newest = max((tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([0-9.]+)", elf)), default=(2, 17))
    return f"libc6 (>= {'.'.join(map(str, newest))})" + (", libgcc-s1" if "libgcc_s" in elf else "")

assert deb["depends"] == "$auto"
size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) // 1024 + 1
lines = [f"Package: {deb['name']}", f"Version: {version or package['version'] + '-1'}", f"Architecture: {arch}", f"Maintainer: {deb['maintainer']}",
         f"Installed-Size: {size}", f"Depends: {needs() or ''}", f"Recommends: {deb['recommends']}", f"Section: {deb['section']}", f"Priority: {deb['priority']}",
         f"Description: gateway between devices and Apache Pulsar"]
lines = [line for line in lines if not line.endswith(": ")] + [f" {line}" for line in deb["extended-description"].splitlines()]
control = root / "DEBIAN"
control.mkdir()
(control / "control").write_text("\n".join(lines) + "\n")
for script in glob.glob(deb["maintainer-scripts"] + "*"):
    to = control / os.path.basename(script)
    shutil.copyfile(script, to)
    to.chmod(0o755)
PYTHON
find "$work" -type d -exec chmod 0755 {} +
(cd "$work" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb --build --root-owner-group "$work" "$out"
