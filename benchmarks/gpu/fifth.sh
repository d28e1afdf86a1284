#!/usr/bin/env bash
# A whole search under 5,000,000 parameters with its final, in 15 minutes: 20 trials of 15 epochs, the best three and
# the best initial network retrained three times. One call makes up to 9.5 minutes of it; call it again with the same
# OUT for the rest.
#   OUT=results WHEELS=wheels CIFAR_TAR=cifar10-jpg.tar.xz bash benchmarks/gpu/fifth.sh
. "$(dirname "$0")/lib.sh"
begin
decode
mkdir -p "$OUT/search_5m"
export BUDGETNAS_CHECKPOINT_DIR=$OUT/search_5m/checkpoints
storage=sqlite:///$(realpath "$OUT")/search_5m/search.db
budget=5e6 asked=(--trials 20 --epochs 15 --finalists 3)
[ -n "$DRY" ] && budget=20k asked=(--finalists 2 --final-seeds 2 --seed 1 "${tiny[@]}")
LINES_KEPT=200 budgetnas search_5m 560 search --study search-5m --budget "$budget" "${asked[@]}" --timeout $((540 - SECONDS))s --storage "$storage"
budgetnas show_5m 60 show search-5m --storage "$storage" --json
cp "$SCRATCH/show_5m.out" "$OUT/search_5m.json"
finish
