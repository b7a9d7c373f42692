#!/usr/bin/env bash
# Everything that needs a GPU, in one go of less than nine minutes: build with CUDA, test every backend, look for memory
# errors, benchmark every op.
#
#     benchmarks/gpu.sh [FOLDER]        (benchmarks/results/gpu)
#
# Needs nvcc, CMake, and a python3 (or $PYTHON) with PyTorch, Triton, setuptools, pybind11, pytest and what rsd-fast
# imports; installs nothing and fetches nothing. FOLDER gets a log of each step and kernels-DEVICE.json (and .png, with
# matplotlib), whose last shapes are left out where time is short. A step that fails, or takes longer than it may, does
# not stop the later ones. Ends with a line for each step, and with status 1 if any failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export python=${PYTHON:-python3}
mkdir -p "${1:-benchmarks/results/gpu}"
out=$(cd "${1:-benchmarks/results/gpu}" && pwd) || exit
ends=510 # seconds from the start to the end of the last step, which gets whatever the others leave

scratch=$(mktemp -d)
export scratch
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=$PWD:$scratch${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
PATH=$PATH:$(dirname "$(readlink -f "$(command -v nvcc)")") # where compute-sanitizer may be

device=$("$python" -c 'import re, torch; print(re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower())') || exit 1
CUDAARCHS=$("$python" -c 'import torch; print("%d%d-real" % torch.cuda.get_device_capability())') || exit 1
export CUDAARCHS
has() { "$python" -c "import $1" 2> /dev/null; }
workers=() plot=()
has xdist && workers=(-n 4)
has matplotlib && plot=(--plot "$out/kernels-$device.png")

build() { # the metadata go where Python finds them, as those of an installed package
    RSD_FAST_NATIVE=1 RSD_FAST_CUDA=1 "$python" setup.py egg_info --egg-base "$scratch" build_ext --inplace &&
        "$python" -m rsd_fast doctor
}

tests() { "$python" -m pytest -q -p no:cacheprovider --durations=5 "$@"; }

sanitizer() { # some twenty-five tests of native CUDA kernels, without the caching allocator, which would hide overruns
    local ids every
    command -v compute-sanitizer > /dev/null || { echo "skipped: no compute-sanitizer"; return; }
    mapfile -t ids < <(tests --collect-only -m '' tests/ops -k native-cuda | grep ::)
    ((${#ids[@]})) || { echo "no tests of native CUDA kernels"; return 1; }
    every=$(((${#ids[@]} + 24) / 25))
    mapfile -t ids < <(printf '%s\n' "${ids[@]}" | awk "NR % $every == 0")
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    compute-sanitizer --error-exitcode 9 --report-api-errors no \
        "$python" -m pytest -q -p no:cacheprovider -m '' "${ids[@]}"
}
export -f build tests sanitizer

summary=() status=0
step() { # NAME SECONDS FUNCTION [ARGUMENT...]: run it, for so long at most, and note how it went
    local name=$1 limit=$2 begin=$SECONDS code=124 result=pass
    shift 2
    ((limit <= ends - begin)) || limit=$((ends - begin))
    printf '\n== %s, %d s at most\n' "$name" "$limit"
    if ((limit > 0)); then
        # Interrupted at its limit, so that the benchmark and pytest still say what they have.
        timeout --signal=INT --kill-after=15 "$limit" bash -c '"$@"' bash "$@" 2>&1 | tee "$out/$name.log" | tail -n 30
        code=${PIPESTATUS[0]}
    fi
    case $code in 0) ;; 124 | 137) status=1 result="FAIL (time)" ;; *) status=1 result="FAIL ($code)" ;; esac
    summary+=("$(printf '%-10s %-11s %4d s' "$name" "$result" $((SECONDS - begin)))")
}

step build 120 build
step ops 120 tests "${workers[@]}" -m '' tests/ops
step quick 80 tests "${workers[@]}" tests --ignore=tests/ops
step sanitizer 75 sanitizer
# Without torch.compile, which would take most of the time.
step train 110 "$python" benchmarks/train.py --device cuda --phase distill --batch 64 --seconds 3 \
    --config "plain, fp16 autocast" --config "+ truncated sigma" --config "+ CUDA graphs" --json "$out/train-$device.json"
step evaluate 60 "$python" benchmarks/evaluation.py --device cuda --json "$out/evaluation-$device.json"
# Mostly torch.compile's time; the shapes come in the order of their weight.
left=$((ends > SECONDS + 60 ? ends - SECONDS - 40 : 20))
step kernels "$ends" "$python" benchmarks/kernels.py --device cuda --limit "$left" \
    --json "$out/kernels-$device.json" "${plot[@]}"

printf '\n== %s, %d s\n' "$device" "$SECONDS"
printf '%s\n' "${summary[@]}"
exit "$status"
