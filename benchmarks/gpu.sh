#!/usr/bin/env bash
# Every figure of docs/performance.md that needs a GPU, the most wanted first: bash benchmarks/gpu.sh FOLDER
#
# Needs an NVIDIA GPU, JAX for it, and torch; of this project's other packages flax, optax, orbax-checkpoint, absl-py and
# ml_collections. What is done lies in FOLDER as JSON beside a log, whenever it is stopped, and what was compiled in
# FOLDER/cache: the same command goes on from there, on another machine with such a GPU too. About half an hour.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?a folder to write to}
mkdir -p "$out/cache"
cache=$(cd "$out/cache" && pwd)
export JAX_COMPILATION_CACHE_DIR=$cache/jax TORCHINDUCTOR_CACHE_DIR=$cache/inductor XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=none  # with them the folder's path is part of each program's key
run() {
    local name=$1
    shift
    python3 -m "$@" --output="$out/$name.json" 2>&1 | tee "$out/$name.log"
}
nvidia-smi --query-gpu=name,clocks.max.sm,power.limit --format=csv | tee "$out/gpu.log"
published="--modes=training,inference --depths=50 --batches=64,128 --dtypes=bfloat16,float32 --rounds=7"
run compiled benchmarks.network $published --compile_only
run network benchmarks.network $published
run operators benchmarks.operators --depth=50 --batch=64 --dtype=bfloat16 --leave_out=fold,taps,shift,im2col \
    --plot="$out/roofline.png"
run memory_compiled benchmarks.memory --mode=compiled --depths=50 --dtypes=bfloat16 --batches=64,128 --memory_gib=130
run memory benchmarks.memory --depths=50 --dtypes=bfloat16,float32 --batches=32,64 --search=1024
run network_18 benchmarks.network --depths=18 --batches=64,128 --dtypes=bfloat16,float32
run network_small benchmarks.network --depths=50 --batches=1,4,16 --dtypes=bfloat16
