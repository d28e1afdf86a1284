#!/usr/bin/env bash
# 400 epochs of the network 3-3-3 x 64-128-256 with the strong recipe, alone on the GPU: about 9.2 minutes at 1.37 s an
# epoch. If that is too slow for its time limit, it begins again with as many epochs as fit.
#   OUT=results WHEELS=wheels CIFAR_TAR=cifar10-jpg.tar.xz bash benchmarks/gpu/sixth.sh
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/long.sh"
begin
decode
EPOCHS=${EPOCHS:-400} LIMIT=$((580 - SECONDS))
[ -n "$DRY" ] && EPOCHS=2
training long_large_strong_400 --recipe strong "${large[@]}" &
waiting
finish
