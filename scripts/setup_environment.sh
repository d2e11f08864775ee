#!/usr/bin/env bash
# Make or complete the project's virtual environment, with every version pinned by constraints.txt.
#
#   scripts/setup_environment.sh          what running Tunesmith needs
#   scripts/setup_environment.sh test     that, all extras, and the test tools
#
# Variables:
#   PYTHON           the Python to start from (default: python3; 3.11 or later)
#   VENV             where the environment lies (default: .venv)
#   TORCH_INDEX_URL  package index to take torch from on Linux without an NVIDIA GPU; unset: PyTorch's own index of CPU
#                    builds where pip's index would bring CUDA and PyTorch's answers, else pip's; empty: pip's
#
# A stamp in the environment holds a hash of everything that decides its content; while it matches there is nothing
# to do, and this takes a moment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kind="${1:-run}"
python="${PYTHON:-python3}"
venv="${VENV:-.venv}"
case "$kind" in
  run) target="." ;;
  test) target=".[all,test]" ;;
  *) echo "usage: scripts/setup_environment.sh [run|test]" >&2; exit 2 ;;
esac

hash="$(cat constraints.txt pyproject.toml scripts/setup_environment.sh | cksum)"
stamp="$venv/.tunesmith-$kind"
if [ -x "$venv/bin/tunesmith" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ]; then
  exit 0
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Tunesmith needs Python 3.11 or later; '$python' is not. Name one: make PYTHON=python3.12 ..." >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  echo "'$python' cannot make virtual environments; on Debian and Ubuntu install python3-venv." >&2
  exit 1
fi

started=$SECONDS
echo "setting up $venv: this takes some minutes, once (versions: constraints.txt)" >&2
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# Compiled at the end, on all cores; pip would keep to one for it.
install() {
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-compile --constraint constraints.txt "$@"
}

# On Linux a plain torch brings gigabytes of CUDA, which a machine without a GPU has no use for.
torch_pin="$(grep '^torch==' constraints.txt)"
cpu_index="https://download.pytorch.org/whl/cpu"
has_gpu() {
  [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null
}
brings_cuda() {
  grep -q '"nvidia-\|"cuda-' <<<"$("$venv/bin/python" -m pip install -qq --disable-pip-version-check --dry-run \
    --no-deps --report - "$torch_pin")"
}
# Within some seconds, also where names are not resolved.
answers() {
  timeout 8 "$venv/bin/python" - "$1" <<'PROGRAM'
import sys, urllib.request
try:
    urllib.request.urlopen(sys.argv[1].rstrip("/") + "/torch/", timeout=4).close()
except OSError:
    sys.exit(1)
PROGRAM
}
if ! "$venv/bin/python" -m pip show --quiet torch 2>/dev/null && [ "$(uname -s)" = Linux ] && ! has_gpu; then
  if [ -z "${TORCH_INDEX_URL+set}" ] && brings_cuda; then
    if answers "$cpu_index"; then
      TORCH_INDEX_URL="$cpu_index"
      echo "taking the CPU build of torch from $cpu_index, since there is no NVIDIA GPU" >&2
    else
      echo "note: pip's torch comes with CUDA, several gigabytes that this machine has no GPU for, and the index of" >&2
      echo "      CPU builds, $cpu_index, does not answer. If you know another," >&2
      echo "      stop here and name it in TORCH_INDEX_URL." >&2
    fi
  fi
  if [ -n "${TORCH_INDEX_URL:-}" ]; then
    # Alone: that index need not have the other pinned versions.
    install --no-deps --index-url "$TORCH_INDEX_URL" "$torch_pin"
  fi
fi

# These have no wheels and are built here, in environments of their own: what they build with is not ours to pin.
without_wheels="seqeval"
[ "$kind" = run ] || without_wheels="seqeval rouge-score sqlitedict word2number deepspeed"
# DeepSpeed compiles what it needs when that is needed, not here.
export DS_BUILD_OPS=0
for name in $without_wheels; do
  install "$(grep "^$name==" constraints.txt)"
done
# The build tool is installed first, so that it is the pinned one and not whichever is newest.
install "$(grep '^hatchling==' constraints.txt)"
install --no-build-isolation --editable "$target"
# Some packages bring files for another Python, which do not compile; nothing imports them here.
"$venv/bin/python" -m compileall -qq -j 0 "$venv"/lib/python*/site-packages >/dev/null || true
printf '%s' "$hash" >"$stamp"
echo "set up in $((SECONDS - started)) s" >&2
