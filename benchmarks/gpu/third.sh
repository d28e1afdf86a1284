#!/usr/bin/env bash
# The third ten minutes on a GPU: the strong recipe and the plain one, 100 epochs of two networks, two trainings at a
# time. Takes up to 9.7 minutes.
#   OUT=results WHEELS=wheels CIFAR_TAR=cifar10-jpg.tar.xz bash benchmarks/gpu/third.sh
. "$(dirname "$0")/lib.sh"
EPOCHS=${EPOCHS:-100} LIMIT=${LIMIT:-440}
small=() large=(--blocks 3,3,3 --widths 64,128,256 --stem-width 64) slim=(--blocks 3,3,3 --widths 16,32,64 --stem-width 16)
if [ -n "$DRY" ]; then
  EPOCHS=2 small=(--subset 200 --subset-eval 100) large=(--blocks 1,1,1 --widths 8,16,32 --stem-width 8) slim=("${large[@]}")
fi
DATA=(python3 -c "from budgetnas.data import DataRequest, load_data; import os; load_data(DataRequest(os.environ.get('BUDGETNAS_DATA', 'digits')))")

training() { # NAME OPTIONS...: 12 lines of it are enough in the log
  LINES_KEPT=18 step "$1" $((LIMIT + 10)) python3 -m benchmarks.long_training --epochs "$EPOCHS" --time-limit "$LIMIT" \
    --device "$DEVICE" --out "$SCRATCH/$1.csv" "${small[@]}" "${@:2}"
}

collect() { # puts the curves so far where they come back, whatever happens later
  cat "$SCRATCH"/long_*.csv 2>/dev/null | awk 'NR == 1 || !/^network,/' >"$OUT/long_training.csv"
}

step prepare 60 true
prepare
[ -z "${BUDGETNAS_DATA:-}" ] && export BUDGETNAS_DATA=digits
step machine 20 bash -c 'nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv; python3 -c "import torch; print(torch.__version__, torch.version.cuda)"'
step decode 100 "${DATA[@]}" &
LINES_KEPT=40 step tests 100 python3 -m pytest -q --maxfail=8 -p no:cacheprovider tests/test_train_gpu.py \
  -k 'strong or gpu_changes or (captured and everything) or no_step_waits' &
wait

waiting() { while [ -n "$(jobs -pr)" ]; do sleep 5; collect; done; collect; }

training long_large_strong --recipe strong "${large[@]}" &
training long_large_plain --recipe plain "${large[@]}" &
waiting
LIMIT=$((570 - SECONDS))
if [ "$LIMIT" -gt 60 ]; then
  training long_slim_strong --recipe strong "${slim[@]}" &
  training long_slim_plain --recipe plain "${slim[@]}" &
  waiting
fi

# The time that is left: each recipe alone on the GPU, for its speed.
left=$((550 - SECONDS))
if [ "$left" -gt 40 ] || [ -n "$DRY" ]; then
  for recipe in strong plain; do
    LINES_KEPT=8 step "speed_$recipe" $((left / 2)) python3 -m benchmarks.long_training --epochs 12 --device "$DEVICE" \
      --recipe "$recipe" --out "$SCRATCH/speed_$recipe.csv" "${small[@]}" "${large[@]}"
  done
fi
tail -c 11000 "$LOG"
