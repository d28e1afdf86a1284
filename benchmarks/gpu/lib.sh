# Shared by the scripts of this folder. Each step has its own time limit; a step that fails does not stop the others.
# Environment: OUT (folder for results), WHEELS (folder of wheels to add), CIFAR_TAR (archive of CIFAR-10 as JPEG files),
# DEVICE (cuda). `--dry-run` takes every step on a CPU, with tiny sizes, and measures nothing.
set -uo pipefail
case "${1:-}" in
  --dry-run) DRY=1 DEVICE=cpu OUT=${OUT:-$(mktemp -d)} ;;
  ?*) echo "usage: $0 [--dry-run]" >&2; exit 2 ;;
esac
export OUT=${OUT:?folder for results} DEVICE=${DEVICE:-cuda} DRY=${DRY:-}
export PYTHONUNBUFFERED=1 COLUMNS=140
SCRATCH=${SCRATCH:-$(mktemp -d)}
PYTHON=${PYTHON:-python3}
export BUDGETNAS_CACHE_DIR=$SCRATCH/cache BUDGETNAS_CHECKPOINT_DIR=$SCRATCH/checkpoints BUDGETNAS_DEVICE=$DEVICE
mkdir -p "$OUT" "$SCRATCH"
LOG=$OUT/log.txt SCRIPT=$(basename "$0" .sh)

# Options of commands that a dry run makes small.
small=() few=() tiny=() shared=(--per-device 2) FP16=fp16
if [ -n "$DRY" ]; then
  export OMP_NUM_THREADS=1
  small=(--subset 20 --subset-eval 20 --epochs 1 --precision float32) # which no CPU emulates
  few=(--arch 1,1,1/4,4,8/4 --batches 4 --steps 2 --repeats 1)
  tiny=(--trials 2 --epochs 2 --subset 100 --subset-eval 100)
  shared=() FP16=float32
fi

step() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 started=$SECONDS code
  shift 2
  [ -n "$DRY" ] && limit=$((limit * 4)) # a busy CPU is no failure
  timeout -k 5 "$limit" "$@" >"$SCRATCH/$name.out" 2>&1
  code=$?
  {
    printf '\n=== %s: %s\n' "$name" "$*"
    tr '\r' '\n' <"$SCRATCH/$name.out" | grep -v '^ *$' | tail -n "${LINES_KEPT:-80}"
  } >>"$LOG"
  printf '{"script": "%s", "step": "%s", "limit": %d, "code": %d, "seconds": %d}\n' \
    "$SCRIPT" "$name" "$limit" "$code" $((SECONDS - started)) >>"$OUT/steps.jsonl"
  echo "--- $name: exit code $code after $((SECONDS - started)) s" | tee -a "$LOG"
}

together() { # COMMAND...: in the background; in a dry run at most one for each core
  while [ -n "$DRY" ] && [ "$(jobs -pr | wc -l)" -ge "$(getconf _NPROCESSORS_ONLN)" ]; do sleep 0.2; done
  "$@" &
}

in_turn() { # COMMAND...: alone, for its timings; a dry run measures nothing and takes it together with others
  if [ -n "$DRY" ]; then together "$@"; else "$@"; fi
}

begin() { # wheels, data and the machine; everything that follows can use them
  step prepare 60 true
  if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$SCRATCH/packages" "$WHEELS"/*.whl
    export PYTHONPATH=$PWD:$SCRATCH/packages
  else
    export PYTHONPATH=$PWD
  fi
  if [ -n "${CIFAR_TAR:-}" ]; then
    mkdir -p "$SCRATCH/cifar" && tar -xJf "$CIFAR_TAR" -C "$SCRATCH/cifar"
    export BUDGETNAS_DATA=folder:$SCRATCH/cifar
  elif [ -n "$DRY" ]; then
    export BUDGETNAS_DATA=digits
  fi
  step machine 60 "$PYTHON" -m benchmarks.gpu.machine --out "$OUT/machine.json"
}

decode() { # decodes the images once, before several commands want them
  step decode 150 "$PYTHON" -c "from budgetnas.data import DataRequest, load_data; import os; load_data(DataRequest(os.environ.get('BUDGETNAS_DATA', 'cifar10')))"
}

compare_loops() { # ARCH BATCH OPTIONS...: budgetnas bench; a dry run has a network that a CPU can train
  local network=(--arch "$1" --batch "$2" "${@:3}")
  [ -n "$DRY" ] && network=(--blocks 1,1,1 --widths 8,16,32 --stem-width 8 --batch 16 --repeats 2 --subset 60 --subset-eval 50 --epochs 2)
  LINES_KEPT=200 budgetnas "bench_$1_$2" "${BENCH_LIMIT:-110}" bench --json "${network[@]}"
  cp "$SCRATCH/bench_$1_$2.out" "$OUT/bench_$1_$2.json"
}

finish() { # the summary of all scripts that wrote into OUT, and the end of the log
  "$PYTHON" -m benchmarks.gpu.summary "$OUT"
  tail -c 11000 "$LOG"
}

db() { echo "sqlite:///$SCRATCH/$1.db"; }
budgetnas() { # NAME SECONDS COMMAND...
  step "$1" "$2" "$PYTHON" -m budgetnas "${@:3}"
}
