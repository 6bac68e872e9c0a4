#!/usr/bin/env bash
# Training with untrusted GPU workers, on a machine that has a GPU, nvcc (CUDA 12.8 or later), CMake,
# ninja, g++ and a Python with torch 2.6 or later, and no packages to build against: coordinator, worker
# and trainer in one process, their tests, and what docs/benchmarks.md has of a GPU.
#
# Usage: bench/gpu/offload.sh pack [ARCHIVE]    on Debian 12 with the packages of scripts/packages.txt: the
#                                               sources and what they are built against, in one archive
#        bench/gpu/offload.sh [OPTION...]       there, in the unpacked archive: builds, tests, measures; options
#                                               are train_gpu_bench's. Where there is no GPU the tests of the
#                                               device are skipped, and nothing is measured.
# Environment: PYTHON (python3), JOBS (all CPUs), BUILD (build/gpu).
set -euo pipefail
cd "$(dirname "$0")/../.."

# What PAVISE_TRAINING_ONLY takes: headers, CMake's and pkg-config's files, libraries.
packages=(libabsl-dev libbenchmark-dev libgmock-dev libgtest-dev libhwy-dev libp11-kit-dev libsimdjson-dev
  libssl-dev liburing-dev libyaml-cpp-dev nlohmann-json3-dev pkgconf-bin zlib1g-dev)
sysroot=bench/gpu/sysroot
most_bytes=$((64 << 20))

pack() {
  local archive=$1 file target soname
  rm -rf "$sysroot"
  mkdir -p "$sysroot"
  dpkg -L "${packages[@]}" | grep -E '^/usr/(include|lib|bin/pkgconf$|share/(cmake|pkgconfig))' |
    grep -vE '/(perl5|ossl-modules|engines-)' | sort -u | while read -r file; do
    if [ -L "$file" ] && [[ $file == *.so ]]; then
      # The library itself, under the name by which programs ask for it.
      target=$(readlink -f "$file")
      soname=$(objdump -p "$target" | awk '$1 == "SONAME" { print $2 }')
      install -D "$target" "$sysroot$(dirname "$file")/$soname"
      [ "$(basename "$file")" = "$soname" ] || ln -sf "$soname" "$sysroot$file"
      # CMake's files name the whole version.
      [ "$(basename "$target")" = "$soname" ] || ln -sf "$soname" "$sysroot$(dirname "$file")/$(basename "$target")"
    elif [ -f "$file" ]; then
      mkdir -p "$sysroot$(dirname "$file")"
      cp -P "$file" "$sysroot$file"
    fi
  done
  # What these libraries and pkgconf need beside the C and C++ libraries.
  find "$sysroot" -name '*.so*' -type f -o -path '*/bin/pkgconf' | xargs ldd 2>/dev/null | awk '$2 == "=>" { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s)\.so' | while read -r file; do
    target=$sysroot/usr/lib/$(gcc -print-multiarch)/$(basename "$file")
    [ -e "$target" ] || cp -L "$file" "$target"
  done
  find "$sysroot" -name '*.so*' -type f -exec strip --strip-unneeded {} +
  { git ls-files --cached --others --exclude-standard; find "$sysroot" -type f -o -type l; } | sort -u |
    tar --create --gzip --file "$archive" --transform 'flags=r;s,^,pavise/,' --files-from -
  ls -l "$archive"
  if [ "$(stat -c %s "$archive")" -gt "$most_bytes" ]; then
    echo "$archive is larger than $most_bytes bytes" >&2
    exit 1
  fi
}

if [ "${1-}" = pack ]; then
  pack "${2-pavise-offload.tar.gz}"
  exit
fi

python=${PYTHON-python3}
build=${BUILD-build/gpu}
torch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))')
wheels=$(dirname "$torch")/nvidia
export PATH=$PATH:/usr/local/cuda/bin
options=(-DPAVISE_TRAINING_ONLY=ON -DPAVISE_CUDA=ON -DPAVISE_GRPC=OFF "-DPAVISE_TORCH_ROOT=$torch"
  -DPAVISE_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES-80;90}" -DCMAKE_BUILD_TYPE=Release)
if [ -d "$sysroot" ]; then
  here=$PWD/$sysroot/usr
  libraries=$(dirname "$(find "$here/lib" -name libcrypto.a)")
  options+=("-DCMAKE_PREFIX_PATH=$here" "-DOPENSSL_ROOT_DIR=$here" -DPAVISE_ONEDNN=OFF)
  mkdir -p "$build"
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/bin/pkgconf "$@"\n' "$libraries" "$here" > "$build/pkg-config"
  chmod +x "$build/pkg-config"
  options+=("-DPKG_CONFIG_EXECUTABLE=$PWD/$build/pkg-config")
  # Its files say /usr: below the root that was packed.
  export PKG_CONFIG_SYSROOT_DIR=$PWD/$sysroot
  export PKG_CONFIG_LIBDIR=$libraries/pkgconfig:$here/share/pkgconfig
fi
# cuDNN's header, where only a wheel has it.
cudnn=$(find "$wheels" /usr/local/cuda/include/ -name cudnn.h -print -quit 2>/dev/null || true)
[ -z "$cudnn" ] || options+=("-DPAVISE_CUDNN_INCLUDE_DIR=$(dirname "$cudnn")")

cmake -S . -B "$build" -G Ninja "${options[@]}"
cmake --build "$build" -j "${JOBS-$(nproc)}" --target offload_test train_torch_test offload_cuda_bench train_gpu_bench
# cuBLASLt and cuDNN are found when they are used: the wheels' own, which libtorch has anyway.
for folder in "$wheels"/*/lib; do
  [ ! -d "$folder" ] || export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH+:$LD_LIBRARY_PATH}
done
# What the packed libraries need themselves, after everything else.
[ ! -d "$sysroot" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH+$LD_LIBRARY_PATH:}$libraries
"$build/bin/offload_test" --gtest_brief=1
"$build/bin/train_torch_test" --gtest_brief=1
if ! nvidia-smi -L; then
  echo "no NVIDIA GPU: nothing is measured" >&2
  exit
fi
"$build/bin/offload_cuda_bench"
"$build/bin/train_gpu_bench" "$@"
