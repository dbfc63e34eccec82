#!/usr/bin/env bash
# Every figure of docs/performance.md that needs a GPU, the most wanted first: bash benchmarks/gpu.sh FOLDER [PART ...]
#
# Parts, in this order unless some are named; seconds are the longest that each may take, and were not measured yet:
#   kernels        270  kernels of a training step, before and after each candidate; 64 clips, bf16
#   training       240  training against torch.compile in turns; 64 clips, bf16, then TF32
#   kernels_128    150  the product's step and all candidates together; 128 clips
#   training_128   240  training against torch.compile; 128 clips, bf16, then TF32
#   autotune       400  training against torch.compile's max-autotune; 64 clips, bf16
#   autotune_tf32  400  the same in TF32
#   inference      300  inference against torch.compile; 64 and 128 clips, bf16 and TF32
#   rest          1500  convolutions by themselves, memory, depth 18, small batches
#
# Needs an NVIDIA GPU, JAX for it, and torch; of this project's other packages flax, optax, orbax-checkpoint, absl-py and
# ml_collections. What is known is printed at once and lies in FOLDER as JSON beside a log. What was compiled lies in
# CACHE (FOLDER/cache unless it is set): the same command goes on from there, on another machine with such a GPU too.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?a folder to write to}
shift
parts=${*:-kernels training kernels_128 training_128 autotune autotune_tf32 inference rest}
mkdir -p "$out" "${CACHE:=$out/cache}"
cache=$(cd "$CACHE" && pwd)
export JAX_COMPILATION_CACHE_DIR=$cache/jax TORCHINDUCTOR_CACHE_DIR=$cache/inductor XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=none  # with them the folder's path is part of each program's key
export PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2

# run SECONDS NAME MODULE [OPTION ...]
run() {
    local seconds=$1 name=$2
    shift 2
    echo "== $name, $(date +%T)"
    timeout --kill-after=5 "$seconds" python3 -m "$@" --output="$out/$name.json" 2> >(tee "$out/$name.err" | tail -n 3 >&2) |
        tee "$out/$name.log"
}
network() {
    local seconds=$1 name=$2
    shift 2
    run "$seconds" "$name" benchmarks.network --depths=50 --rounds=7 "$@"
}
nvidia-smi --query-gpu=name,clocks.max.sm,power.limit --format=csv,noheader | tee "$out/gpu.log"
all=flat+onepass+pool+pairs+layout
for part in $parts; do
    case $part in
    kernels) run 270 kernels benchmarks.step_kernels --variants=base,$all,flat,pool,pairs,onepass,layout ;;
    training)
        network 130 training_bf16 --modes=training --batches=64 --dtypes=bfloat16
        network 200 training_tf32 --modes=training --batches=64 --dtypes=float32
        ;;
    kernels_128) run 150 kernels_128 benchmarks.step_kernels --batch=128 --variants=base,$all ;;
    training_128)
        network 160 training_128_bf16 --modes=training --batches=128 --dtypes=bfloat16
        network 200 training_128_tf32 --modes=training --batches=128 --dtypes=float32
        ;;
    autotune) network 400 autotune_bf16 --modes=training --batches=64 --dtypes=bfloat16 --torch_modes=default,max-autotune ;;
    autotune_tf32) network 400 autotune_tf32 --modes=training --batches=64 --dtypes=float32 --torch_modes=default,max-autotune ;;
    inference) network 300 inference --modes=inference --batches=64,128 --dtypes=bfloat16,float32 ;;
    rest)
        run 300 operators benchmarks.operators --depth=50 --batch=64 --dtype=bfloat16 --leave_out=taps,shift \
            --plot="$out/roofline.png"
        run 300 memory_compiled benchmarks.memory --mode=compiled --depths=50 --dtypes=bfloat16 --batches=64,128 \
            --memory_gib=130
        run 600 memory benchmarks.memory --depths=50 --dtypes=bfloat16,float32 --batches=32,64 --search=1024
        network 300 network_18 --depths=18 --batches=64,128 --dtypes=bfloat16,float32
        network 300 network_small --batches=1,4,16 --dtypes=bfloat16
        ;;
    *) echo "no part $part" >&2 && exit 2 ;;
    esac
done
