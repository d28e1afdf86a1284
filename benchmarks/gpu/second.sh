#!/usr/bin/env bash
# The second ten minutes on a GPU: the replays side by side, two workers on one GPU, the other benchmarks.
#   OUT=results WHEELS=wheels CIFAR_TAR=cifar10-jpg.tar.xz bash benchmarks/gpu/second.sh
. "$(dirname "$0")/lib.sh"
replay() { # NAME LABEL OPTIONS...: two epochs' worth of lines are enough in the log
  LINES_KEPT=14 budgetnas "replay_$2" 420 replay "$1" --precision bf16 --storage "$(db "replay_$2")" --out "$SCRATCH/$2.html" "${@:3}" "${small[@]}"
}

begin
decode

# Side by side on one GPU: five trainings, and with them everything that is not timed.
together replay v1-sgd v1_sgd_tmax60 --t-max 60
together replay v1-sgd v1_sgd_tmax200 --t-max 200
together replay v1-adam v1_adam
together replay v2-adam v2_adam
together replay resnet18 resnet18
LINES_KEPT=40 together step tests 150 "$PYTHON" -m pytest -q --maxfail=8 -p no:cacheprovider tests/test_train_gpu.py
LINES_KEPT=30 together budgetnas digits_workers 200 search digits-demo --data digits --trials 4 --workers 2 "${shared[@]}" --storage "$(db digits2)" "${tiny[@]}"
wait

in_turn step step_times 75 "$PYTHON" -m benchmarks.gpu.step_times --device "$DEVICE" --out "$OUT/step_times.jsonl" --precisions float32,tf32,fp16 --batches 512 "${few[@]}"
in_turn compare_loops v2 512 --repeats 3 --subset 20000
in_turn compare_loops v1 128 --repeats 3 --subset 20000
in_turn compare_loops resnet18 128 --repeats 3 --subset 20000
wait
step curves 30 "$PYTHON" -m benchmarks.gpu.curves "$SCRATCH" --out "$OUT/replays.csv"
finish
