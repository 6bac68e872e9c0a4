#!/usr/bin/env bash
# Runs what bench/gpu/build.sh built, which lies beside this script: the tests, the tables and the plot.
#
# Usage: run.sh DIR
#
# DIR/summary.txt has a line a step, PASS, FAIL or SKIP with its reason; logs, tables, JSON and SVG lie
# beside it. A step takes 9 minutes at most. What passed or was skipped is not run again, so that a run
# that was cut short goes on where it stopped: run it again with the same DIR. Exit 0: nothing failed;
# 1: something did; 2: usage.
#
# LOAD_SIZE=16GiB sets the size of the model that is loaded (else a quarter of the free memory, at most
# 16 GiB); SIZES=1MiB,64MiB the sizes that are hashed (else 1 MiB to 64 GiB).
set -uo pipefail
if [ $# -ne 1 ]; then
  echo "usage: run.sh DIR" >&2
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" || exit 1
cd "$1" || exit 1
touch summary.txt
step_limit_s=540
stop_after_s=300 # the point under way then takes two minutes at most

is_done() { grep -qE "^(PASS|SKIP) $1( |$)" summary.txt; }
# record VERDICT STEP [REASON]: in place of what the summary said of the step.
record() {
  grep -vE "^[A-Z]+ $2( |$)" summary.txt >summary.txt.new
  echo "$*" >>summary.txt.new
  mv summary.txt.new summary.txt
  echo "$*"
}
# step NAME COMMAND...: output in NAME.log.
step() {
  local name=$1
  shift
  is_done "$name" && return
  if timeout "$step_limit_s" "$@" >"$name.log" 2>&1; then
    local skipped
    skipped=$(grep -c '^\[  SKIPPED \] .*ms)$' "$name.log")
    record PASS "$name" "$([ "$skipped" -gt 0 ] && echo "($skipped test cases skipped, see $name.log)")"
  else
    record FAIL "$name" "exit code $?, see $name.log"
  fi
}
bench() { timeout "$step_limit_s" "$here/pavise_bench" bench "$@"; }

if [ ! -e machine.txt ]; then
  { uname -srm; grep -m1 'model name' /proc/cpuinfo; nproc; grep -E 'MemTotal|MemAvailable' /proc/meminfo
    cat /proc/loadavg; command -v nvidia-smi >/dev/null && nvidia-smi; } >machine.txt 2>&1
fi

devices=cpu
load_devices=cpu
has_cuda=no
for device in cuda:0 opencl:0; do
  name=device_${device%:*}
  if bench hash --device "$device" --sizes 17 --seconds 0 >"$name.log" 2>&1; then
    devices=$devices,$device
    load_devices="$load_devices $device"
    [ "$device" = cuda:0 ] && has_cuda=yes
    record PASS "$name"
  else
    record SKIP "$name" "$(tr '\n' ' ' <"$name.log")"
  fi
done

for test in hash_test loading_test; do
  for shard in 0 1 2 3; do
    step "${test}_$shard" env GTEST_TOTAL_SHARDS=4 GTEST_SHARD_INDEX=$shard GTEST_COLOR=no \
      "$here/${test}_portable"
  done
done

hash_options=(hash --device "$devices" --resume points.json)
[ -n "${SIZES:-}" ] && hash_options+=(--sizes "$SIZES")
if ! is_done hash; then
  while true; do
    bench "${hash_options[@]}" --stop-after "$stop_after_s" --json >hash.json 2>hash.log
    code=$?
    [ "$code" -ne 0 ] && break
    grep -q '"points_left": 0' hash.json && break
  done
  if [ "$code" -eq 0 ] && bench "${hash_options[@]}" --plot hash.svg >hash.txt 2>>hash.log; then
    record PASS hash "hash.txt, hash.json, hash.svg"
  else
    record FAIL hash "exit code $code, see hash.json and hash.log"
  fi
fi

if ! is_done load_cpu || [ "$(echo "$load_devices" | wc -w)" -gt 1 ]; then
  free_kib=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
  gib=$((free_kib / 4 / 1048576))
  size=${LOAD_SIZE:-$((gib < 1 ? 1 : gib > 16 ? 16 : gib))GiB}
  for device in $load_devices; do
    name=load_${device%:*}
    is_done "$name" && continue
    if bench load --device "$device" --size "$size" --json >"$name.json" 2>"$name.log"; then
      record PASS "$name" "$name.json"
    else
      record FAIL "$name" "exit code $?, see $name.json and $name.log"
    fi
  done
fi

if [ "$has_cuda" = no ]; then
  for name in cuda_kernels memcheck racecheck load_cuda; do
    is_done "$name" || record SKIP "$name" "no CUDA device, see device_cuda.log"
  done
else
  if ! is_done cuda_kernels; then
    code=3
    while [ "$code" -eq 3 ]; do
      timeout "$step_limit_s" "$here/hash_cuda_bench" --output cuda_kernels --seconds "$stop_after_s" \
        >cuda_kernels.log 2>&1
      code=$?
    done
    if [ "$code" -eq 0 ]; then record PASS cuda_kernels "cuda_kernels.log"; else
      record FAIL cuda_kernels "exit code $code, see cuda_kernels.log"; fi
  fi
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  for tool in memcheck racecheck; do
    if [ -z "$sanitizer" ]; then
      is_done "$tool" || record SKIP "$tool" "compute-sanitizer is not installed"
    else
      step "$tool" "$sanitizer" --tool "$tool" --error-exitcode 9 "$here/hash_test_portable" \
        '--gtest_filter=CudaDevice*:DeviceContract*:DeviceCopy*'
    fi
  done
fi

echo
cat summary.txt
! grep -q '^FAIL' summary.txt
