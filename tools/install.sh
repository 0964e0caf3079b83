#!/usr/bin/env bash
# Make a virtual environment with everything, detection and tests included.
# Environment: PYTHON (python3), VENV (.venv), TORCH_INDEX (the index of torch, such as
# https://download.pytorch.org/whl/cpu); pip's own settings are honoured, such as
# PIP_FIND_LINKS for a folder of wheels. A second run takes seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
MMCV=$(grep '^onedl-mmcv' requirements/onedl.txt)
case ${TORCH_INDEX:-} in */cpu) GIB_NEEDED=5 ;; *) GIB_NEEDED=10 ;; esac

fail() { echo "install: $1" >&2; exit 1; }
step() { echo "== $1"; }

state=$(cat requirements/*.txt setup.cfg pyproject.toml tools/install.sh | cksum; pwd)
if [ -f "$VENV/.installed" ] && [ "$(cat "$VENV/.installed")" = "$state" ]; then
    echo "$VENV is up to date.${TORCH_INDEX:+ It keeps its torch: to take that of TORCH_INDEX, remove $VENV first.}"
    exit 0
fi

command -v "$PYTHON" > /dev/null || fail "no '$PYTHON': install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$PYTHON" --version) is too old: Python 3.10 or newer is needed; name one: make PYTHON=/path/to/python3"
"$PYTHON" -c 'import venv, ensurepip' 2> /dev/null ||
    fail "$PYTHON has no venv: install it (Debian, Ubuntu: apt install python3-venv)"
if [ ! -x "$VENV/bin/python" ]; then
    folder=$(dirname "$VENV")
    mkdir -p "$folder"
    free=$(($(df -Pk "$folder" | awk 'NR == 2 {print $4}') / 1024 / 1024))
    ((free >= GIB_NEEDED)) ||
        fail "$free GiB free in $(cd "$folder" && pwd), $GIB_NEEDED needed (most of it for torch): make room, or set VENV to a folder elsewhere"
    step "Making $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "$VENV"
fi
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }
# uv takes a fraction of pip's time; what it cannot do, pip does, or says what is wrong.
install() {
    "$VENV/bin/uv" pip install --quiet --python "$VENV" "$@" 2> /dev/null ||
        pip install --quiet "$@"
}

step "Installing torch (a download of up to 3 GB)"
pip install --quiet uv 2> /dev/null || true
for setting in FIND_LINKS CONSTRAINT INDEX_URL EXTRA_INDEX_URL; do # which uv does not read of pip
    theirs=PIP_$setting ours=UV_$setting key=$(tr A-Z_ a-z- <<< "$setting")
    value=${!ours:-${!theirs:-$(pip config get "global.$key" 2> /dev/null || true)}}
    [ "$setting" != FIND_LINKS ] || value=${value// /,}
    [ -z "$value" ] || export "$ours=$value"
done
export UV_INDEX_STRATEGY=unsafe-best-match # as pip's is
install "setuptools>=80,<82" wheel ninja
install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r requirements/torch.txt

ops_work() { "$VENV/bin/python" -c 'import torch, mmcv.ops' > /dev/null 2>&1; }
if ! ops_work; then
    step "Looking for a wheel of $MMCV that fits"
    install --only-binary=onedl-mmcv "$MMCV" 2> /dev/null || true
    if ! ops_work; then
        command -v "${CXX:-c++}" > /dev/null ||
            fail "no wheel of $MMCV fits, and there is no C++ compiler to build it: install one (Debian, Ubuntu: apt install g++), or put a wheel into a folder named by PIP_FIND_LINKS"
        headers=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
        [ -f "$headers/Python.h" ] ||
            fail "no wheel of $MMCV fits, and Python's headers are missing in $headers to build it: install them (Debian, Ubuntu: apt install python3-dev), or put a wheel into a folder named by PIP_FIND_LINKS"
        "$VENV/bin/python" -c 'import sys, torch, torch.utils.cpp_extension as t; sys.exit(torch.cuda.is_available() and not t.CUDA_HOME)' ||
            fail "no wheel of $MMCV fits, and to build it for the GPU nvcc is missing: put a wheel into a folder named by PIP_FIND_LINKS, install nvcc of torch's CUDA, or build it for the CPU: CUDA_VISIBLE_DEVICES= make install"
        step "No wheel fits: building $MMCV's operators from source, about ten minutes on two cores"
        pip install --quiet --no-cache-dir --force-reinstall --no-deps --no-build-isolation \
            --no-binary=onedl-mmcv "$MMCV"
        pip install --quiet "$MMCV"
        ops_work || fail "$MMCV was built but cannot be imported: $("$VENV/bin/python" -c 'import torch, mmcv.ops' 2>&1 | tail -n 1)"
    fi
fi

step "Installing mmsnclr and the OpenMMLab packages"
install --no-build-isolation -e ".[onedl,tests]"
"$VENV/bin/python" -c 'import mmsnclr' > /dev/null
echo "$state" > "$VENV/.installed"
step "Done. To use it: source $VENV/bin/activate"
