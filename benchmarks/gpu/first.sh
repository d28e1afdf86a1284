#!/usr/bin/env bash
# The first ten minutes on a GPU: does it run, how fast, and where does the time go. From the repository root:
#   OUT=results WHEELS=wheels CIFAR_TAR=cifar10-jpg.tar.xz bash benchmarks/gpu/first.sh
. "$(dirname "$0")/lib.sh"
begin

# Correctness: side by side, because nothing is timed here.
together budgetnas doctor 90 doctor --storage "$(db doctor)"
together step tests 150 "$PYTHON" -m pytest -q -x --maxfail=8 -p no:cacheprovider tests/test_train_gpu.py
together budgetnas digits 120 search digits-demo --trials 4 --storage "$(db digits)" "${tiny[@]}"
together budgetnas digits_workers 150 search digits-demo --trials 4 --workers 2 "${shared[@]}" --storage "$(db digits2)" "${tiny[@]}"
together decode
wait

in_turn budgetnas replay_v2_sgd 170 replay v2-sgd --precision bf16 --storage "$(db replays)" --out "$OUT/replay.html" "${small[@]}"
in_turn step step_times 120 "$PYTHON" -m benchmarks.gpu.step_times --device "$DEVICE" --out "$OUT/step_times.jsonl" "${few[@]}"
BENCH_LIMIT=170 in_turn compare_loops v2 128
in_turn step profile 60 "$PYTHON" -m benchmarks.gpu.profile_steps --device "$DEVICE" ${DRY:+--archs 1,1,1/8,16,32/8}
wait
cp "$SCRATCH"/replays.db "$OUT"/ 2>/dev/null
finish
