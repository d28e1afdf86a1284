# Long trainings, for the scripts that make some. Sourced after lib.sh.
large=(--blocks 3,3,3 --widths 64,128,256 --stem-width 64) images=()
[ -n "$DRY" ] && large=(--blocks 1,1,1 --widths 8,16,32 --stem-width 8) images=(--subset 200 --subset-eval 100)

training() { # NAME OPTIONS...: the last lines are enough in the log
  LINES_KEPT=18 step "$1" $((LIMIT + 10)) "$PYTHON" -m benchmarks.long_training --epochs "$EPOCHS" --time-limit "$LIMIT" \
    --device "$DEVICE" --out "$SCRATCH/$1.csv" "${images[@]}" "${@:2}"
}

collect() { # puts the curves so far where they come back, whatever happens later
  cat "$SCRATCH"/long_*.csv 2>/dev/null | awk 'NR == 1 || !/^network,/' >"$OUT/long_training.csv"
}

waiting() {
  while [ -n "$(jobs -pr)" ]; do
    sleep 2
    collect
  done
  collect
}
