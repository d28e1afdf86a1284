# Shared by the scripts of this folder. Each step has its own time limit; a step that fails does not stop the others.
# Environment: OUT (folder for results), WHEELS (folder of wheels to add), CIFAR_TAR (archive of CIFAR-10 as JPEG files),
# DEVICE (cuda), DRY=1 for a trial run on a CPU that takes a minute and measures nothing.
set -uo pipefail
export OUT=${OUT:?folder for results} DEVICE=${DEVICE:-cuda} DRY=${DRY:-}
export PYTHONUNBUFFERED=1 COLUMNS=140
SCRATCH=${SCRATCH:-$(mktemp -d)}
export BUDGETNAS_CACHE_DIR=$SCRATCH/cache BUDGETNAS_DEVICE=$DEVICE
mkdir -p "$OUT" "$SCRATCH"
LOG=$OUT/log.txt

step() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 started=$SECONDS code
  shift 2
  { echo; echo "=== $name: $*"; } >>"$LOG"
  timeout -k 5 "$limit" "$@" >"$SCRATCH/$name.out" 2>&1
  code=$?
  tr '\r' '\n' <"$SCRATCH/$name.out" | grep -v '^ *$' | tail -n "${LINES_KEPT:-80}" >>"$LOG"
  echo "--- $name: exit code $code after $((SECONDS - started)) s" | tee -a "$LOG"
}

prepare() {
  if [ -n "${WHEELS:-}" ]; then
    python3 -m pip install --quiet --no-index --no-deps --target "$SCRATCH/packages" "$WHEELS"/*.whl
    export PYTHONPATH=$PWD:$SCRATCH/packages
  else
    export PYTHONPATH=$PWD
  fi
  if [ -n "${CIFAR_TAR:-}" ]; then
    mkdir -p "$SCRATCH/cifar" && tar -xJf "$CIFAR_TAR" -C "$SCRATCH/cifar"
    export BUDGETNAS_DATA=folder:$SCRATCH/cifar
  fi
}

budgetnas() { python3 -m budgetnas "$@"; }
