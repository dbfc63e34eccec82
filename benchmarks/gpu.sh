#!/usr/bin/env bash
# All figures of docs/performance.md that need a GPU, the most wanted first: bash benchmarks/gpu.sh FOLDER [PART ...]
#
# Parts (default: all, in this order), with the seconds after which each is stopped:
#   kernels       270  kernels of a training step with each candidate and all; 64 clips, bf16
#   training      200  training against torch.compile in turns; 64 clips, bf16
#   training_tf32 240  the same in TF32
#   kernels_128   150  the product's step and all candidates; 128 clips, bf16
#   training_128  400  training against torch.compile; 128 clips, bf16, then TF32
#   autotune      290  training against torch.compile's max-autotune; 64 clips, bf16
#   autotune_tf32 400  the same in TF32
#   inference     300  inference against torch.compile; 64 and 128 clips, bf16 and TF32
#   rest         1800  convolutions by themselves, memory, depth 18, small batches
#
# Needs an NVIDIA GPU, JAX for it, and torch; of this project's other packages flax, optax, orbax-checkpoint, absl-py and
# ml_collections. Figures are printed as soon as they are known, and FOLDER gets log, errors.log and a JSON file a part.
# Compiled programs are kept in CACHE (default FOLDER/cache), so that a second run starts faster. CANDIDATES names
# variants of our training step (benchmarks/candidates.py), separated by commas.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?a folder to write to}
shift
parts=${*:-kernels training training_tf32 kernels_128 training_128 autotune autotune_tf32 inference rest}
mkdir -p "$out" "${CACHE:=$out/cache}"
cache=$(cd "$CACHE" && pwd)
export JAX_COMPILATION_CACHE_DIR=$cache/jax TORCHINDUCTOR_CACHE_DIR=$cache/inductor XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=none  # else the key of a program contains the folder's path
export PYTHONUNBUFFERED=1
all=flat+onepass

# run SECONDS NAME MODULE [OPTION ...]
run() {
    local seconds=$1 name=$2
    shift 2
    echo "== $name, $(date +%T)" | tee -a "$out/errors.log"
    if ! timeout --kill-after=5 "$seconds" python3 -m "$@" --output="$out/$name.json" 2>> "$out/errors.log"; then
        echo "$name did not end well; the last of errors.log:"
        tail -n 3 "$out/errors.log" | cut -c1-300
    fi
}
network() {
    local seconds=$1 name=$2
    shift 2
    run "$seconds" "$name" benchmarks.network --depths=50 --rounds=7 "$@"
}
training() {
    local seconds=$1 name=$2
    shift 2
    network "$seconds" "$name" --modes=training --candidates="${CANDIDATES:-}" "$@"
}
part() {
    case $1 in
    kernels) run 270 kernels benchmarks.step_kernels --variants=base,$all,flat,onepass ;;
    training) training 200 training --batches=64 --dtypes=bfloat16 ;;
    training_tf32) training 240 training_tf32 --batches=64 --dtypes=float32 ;;
    kernels_128) run 150 kernels_128 benchmarks.step_kernels --batch=128 --variants=base,$all ;;
    training_128)
        training 200 training_128 --batches=128 --dtypes=bfloat16
        training 200 training_128_tf32 --batches=128 --dtypes=float32
        ;;
    autotune) training 290 autotune --batches=64 --dtypes=bfloat16 --torch_modes=max-autotune ;;
    autotune_tf32) training 400 autotune_tf32 --batches=64 --dtypes=float32 --torch_modes=max-autotune ;;
    inference) network 300 inference --modes=inference --batches=64,128 --dtypes=bfloat16,float32 ;;
    rest)
        run 300 operators benchmarks.operators --depth=50 --batch=64 --dtype=bfloat16 --leave_out=taps,shift \
            --plot="$out/roofline.png"
        run 300 memory_compiled benchmarks.memory --mode=compiled --depths=50 --dtypes=bfloat16 --batches=64,128 \
            --memory_gib=130
        run 600 memory benchmarks.memory --depths=50 --dtypes=bfloat16,float32 --batches=32,64
        run 300 network_18 benchmarks.network --depths=18 --batches=64,128 --dtypes=bfloat16,float32
        network 300 network_small --batches=1,4,16 --dtypes=bfloat16
        ;;
    *) echo "no part $1" >&2 ;;
    esac
}
{
    nvidia-smi --query-gpu=name,clocks.max.sm,power.limit --format=csv,noheader
    for each in $parts; do part "$each"; done
} | tee -a "$out/log"
