#!/usr/bin/env bash
# The first ten minutes on a GPU: does it run, how fast, and where does the time go. From the repository root:
#   OUT=results WHEELS=wheels CIFAR_TAR=cifar10-jpg.tar.xz bash benchmarks/gpu/first.sh
. "$(dirname "$0")/lib.sh"
small=() few=()
[ -n "$DRY" ] && small=(--subset 200 --subset-eval 100 --epochs 2) few=(--arch 1,1,1/8,16,32/8 --batches 16 --steps 2 --repeats 1)
db() { echo "sqlite:///$SCRATCH/$1.db"; }

step prepare 60 true
prepare
step machine 20 bash -c 'nvidia-smi; python3 -c "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_arch_list()); print(torch.cuda.get_device_capability(), torch.backends.cudnn.version())"'

# Correctness: beside each other, for nothing is timed here.
step doctor 90 python3 -m budgetnas doctor --storage "$(db doctor)" &
step tests 150 python3 -m pytest -q -x --maxfail=8 -p no:cacheprovider tests/test_train_gpu.py &
step digits 120 python3 -m budgetnas search digits-demo --trials 4 --storage "$(db digits)" &
step digits_workers 150 python3 -m budgetnas search digits-demo --trials 4 --workers 2 --storage "$(db digits2)" &
step decode 150 python3 -c "from budgetnas.data import DataRequest, load_data; import os; load_data(DataRequest(os.environ.get('BUDGETNAS_DATA', 'digits')))" &
wait

step replay_v2_sgd 170 python3 -m budgetnas replay v2-sgd --precision bf16 --storage "$(db replays)" --out "$OUT/replay.html" "${small[@]}"
step step_times 120 python3 -m benchmarks.gpu.step_times --device "$DEVICE" --out "$OUT/step_times.jsonl" "${few[@]}"
step bench_v2_128 170 python3 -m budgetnas bench --arch v2 --batch 128 --json "${small[@]}"
step profile 60 python3 -m benchmarks.gpu.profile_steps --device "$DEVICE" ${DRY:+--archs 1,1,1/8,16,32/8}
cp "$SCRATCH"/replays.db "$OUT"/ 2>/dev/null
tail -c 11000 "$LOG"
