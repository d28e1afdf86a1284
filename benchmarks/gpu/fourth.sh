#!/usr/bin/env bash
# The fourth ten minutes on a GPU: failures on purpose, fp16, trainings side by side, and the replays that were left.
#   OUT=results WHEELS=wheels CIFAR_TAR=cifar10-jpg.tar.xz bash benchmarks/gpu/fourth.sh
. "$(dirname "$0")/lib.sh"
replay() { # NAME PRECISION
  LINES_KEPT=14 budgetnas "replay_$1_$2" 330 replay "$1" --precision "$2" --storage "$(db "replay_$1_$2")" --out "$SCRATCH/$1_$2.html" "${small[@]}"
}

begin
# Correctness: side by side, because nothing is timed here.
LINES_KEPT=40 together step tests 150 "$PYTHON" -m pytest -q --maxfail=8 -p no:cacheprovider tests/test_train_gpu.py
together step failed_capture 150 "$PYTHON" -m benchmarks.gpu.failed_capture --device "$DEVICE" --out "$OUT/failed_capture.json"
together budgetnas digits_fp16 120 search digits-demo --data digits --trials 4 --precision "$FP16" --storage "$(db fp16)" "${tiny[@]}"
together decode
wait

step side_by_side 120 "$PYTHON" -m benchmarks.gpu.side_by_side --device "$DEVICE" --out "$OUT/side_by_side.jsonl" \
  ${DRY:+--arch 1,1,1/8,16,32/8 --batch 16 --seconds 1 --trainings 1,2}
step step_times 75 "$PYTHON" -m benchmarks.gpu.step_times --device "$DEVICE" --out "$OUT/step_times.jsonl" \
  --precisions fp16,float32 "${few[@]}"

# v2-sgd as it was recorded, in float32, and in fp16. They share the GPU, so that only their accuracies count.
together replay v2-sgd float32
together replay v2-sgd fp16
together replay v2-adam float32
wait
step curves 30 "$PYTHON" -m benchmarks.gpu.curves "$SCRATCH" --out "$OUT/replays.csv"
finish
