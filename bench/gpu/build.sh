#!/usr/bin/env bash
# Builds the benchmarks and the tests of what they measure into bench/gpu/bin, to be carried to a
# machine that has nothing but an NVIDIA driver: they need the C library (2.36 or later) and no other
# shared library. Here it takes the packages of scripts/packages.txt and the CUDA toolkit.
#
# Usage: bench/gpu/build.sh            then, there: run.sh DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
programs=(pavise_bench hash_cuda_bench hash_test_portable loading_test_portable)
most_bytes=$((64 << 20))
cmake --preset release -DPAVISE_CUDA=ON
cmake --build --preset release --target "${programs[@]}"
mkdir -p bench/gpu/bin
for program in "${programs[@]}"; do
  strip -o "bench/gpu/bin/$program" "build/release/bin/$program"
  others=$(objdump -p "bench/gpu/bin/$program" | awk '$1 == "NEEDED" { print $2 }' |
    grep -vE '^(libc|libm|libdl|librt|libpthread|ld-linux-.*)\.so' || true)
  if [ -n "$others" ]; then
    echo "$program needs $others" >&2
    exit 1
  fi
done
cp bench/gpu/run.sh bench/gpu/bin/
total_bytes=$(cat bench/gpu/bin/* | wc -c)
if [ "$total_bytes" -gt "$most_bytes" ]; then
  echo "bench/gpu/bin has $total_bytes bytes, more than $most_bytes" >&2
  exit 1
fi
ls -l bench/gpu/bin
