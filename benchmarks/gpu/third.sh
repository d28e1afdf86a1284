#!/usr/bin/env bash
# The third ten minutes on a GPU: the strong recipe and the plain recipe, 100 epochs of two networks, two trainings at a
# time. Takes up to 9.7 minutes.
#   OUT=results WHEELS=wheels CIFAR_TAR=cifar10-jpg.tar.xz bash benchmarks/gpu/third.sh
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/long.sh"
EPOCHS=${EPOCHS:-100} LIMIT=${LIMIT:-440}
slim=(--blocks 3,3,3 --widths 16,32,64 --stem-width 16) speed_epochs=12
[ -n "$DRY" ] && EPOCHS=2 slim=("${large[@]}") speed_epochs=1

begin
together decode
LINES_KEPT=40 step tests 100 "$PYTHON" -m pytest -q --maxfail=8 -p no:cacheprovider tests/test_train_gpu.py \
  -k 'strong or gpu_changes or (captured and everything) or no_step_waits' &
wait

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
    LINES_KEPT=8 step "speed_$recipe" $((left / 2)) "$PYTHON" -m benchmarks.long_training --epochs "$speed_epochs" \
      --device "$DEVICE" --recipe "$recipe" --out "$SCRATCH/speed_$recipe.csv" "${images[@]}" "${large[@]}"
  done
fi
finish
