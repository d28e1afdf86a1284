#!/usr/bin/env bash
# The second ten minutes on a GPU: the replays side by side, two workers on one GPU, the other benchmarks.
#   OUT=results WHEELS=wheels CIFAR_TAR=cifar10-jpg.tar.xz bash benchmarks/gpu/second.sh
. "$(dirname "$0")/lib.sh"
small=() few=()
[ -n "$DRY" ] && small=(--subset 200 --subset-eval 100 --epochs 2) few=(--arch 1,1,1/8,16,32/8 --batches 16 --steps 2 --repeats 1)
db() { echo "sqlite:///$SCRATCH/$1.db"; }
replay() { # NAME LABEL OPTIONS...: two epochs' worth of lines are enough in the log
  LINES_KEPT=14 step "replay_$2" 420 python3 -m budgetnas replay "$1" --precision bf16 --storage "$(db "replay_$2")" --out "$SCRATCH/$2.html" "${@:3}" "${small[@]}"
}

step prepare 60 true
prepare
step decode 100 python3 -c "from budgetnas.data import DataRequest, load_data; import os; load_data(DataRequest(os.environ.get('BUDGETNAS_DATA', 'digits')))"
step machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv

# Side by side on one GPU: five trainings, and beside them what needs no clock.
replay v1-sgd v1_sgd_tmax60 --t-max 60 &
replay v1-sgd v1_sgd_tmax200 --t-max 200 &
replay v1-adam v1_adam &
replay v2-adam v2_adam &
replay resnet18 resnet18 &
LINES_KEPT=40 step tests 150 python3 -m pytest -q --maxfail=8 -p no:cacheprovider tests/test_train_gpu.py &
LINES_KEPT=30 step digits_workers 200 python3 -m budgetnas search digits-demo --data digits --trials 4 --workers 2 --per-device 2 --storage "$(db digits2)" &
wait

step step_times 75 python3 -m benchmarks.gpu.step_times --device "$DEVICE" --out "$OUT/step_times.jsonl" --precisions float32,tf32,fp16 --batches 512 "${few[@]}"
for arch in v2:512 v1:128 resnet18:128; do
  LINES_KEPT=200 step "bench_$arch" 110 python3 -m budgetnas bench --arch "${arch%:*}" --batch "${arch#*:}" --repeats 3 --subset 20000 --json "${small[@]}"
done
python3 - "$SCRATCH" <<'P' >>"$LOG"
import csv, glob, os, sqlite3, sys
with open(os.path.join(os.environ["OUT"], "replays.csv"), "w") as file:
    writer = csv.writer(file)
    writer.writerow(["run", "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"])
    for path in sorted(glob.glob(sys.argv[1] + "/replay_*.db")):
        name = os.path.basename(path)[len("replay_"):-3]
        rows = sqlite3.connect(path).execute(
            "select epoch, train_loss, train_accuracy, eval_loss, eval_accuracy, seconds from epochs order by epoch").fetchall()
        writer.writerows([name, *row] for row in rows)
        print(name, "epochs:", len(rows), "last:", rows[-1], "best:", max(row[4] for row in rows), "seconds:", round(sum(row[5] for row in rows), 1))
P
tail -c 11000 "$LOG"
