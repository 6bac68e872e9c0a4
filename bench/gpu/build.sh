#!/usr/bin/env bash
# Builds hash_cuda_bench into bench/gpu/bin, to be carried to a machine that has nothing but an NVIDIA
# driver: it needs the C library (2.36 or later) and no other shared library.
#
# Usage: bench/gpu/build.sh            then, there: hash_cuda_bench --output DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
cmake --preset release -DPAVISE_CUDA=ON
cmake --build --preset release --target hash_cuda_bench
mkdir -p bench/gpu/bin
strip -o bench/gpu/bin/hash_cuda_bench build/release/bin/hash_cuda_bench
others=$(objdump -p bench/gpu/bin/hash_cuda_bench | awk '$1 == "NEEDED" { print $2 }' |
  grep -vE '^(libc|libm|libdl|librt|libpthread|ld-linux-.*)\.so' || true)
if [ -n "$others" ]; then
  echo "hash_cuda_bench needs $others" >&2
  exit 1
fi
ls -l bench/gpu/bin/hash_cuda_bench
