#!/usr/bin/env bash
# Installs the packages of a folder on a Debian 12 that is made from nothing, and tries there what they promise:
# sign, verify, refuse; a worker that starts; the C and the C++ example built from what libpavise-dev
# brings; removal. Needs root, debootstrap, 4 GiB of disk and Debian's archive.
#
# Usage: package_test.sh FOLDER [--keep]
set -euo pipefail

packages=$(realpath "${1:?usage: package_test.sh FOLDER [--keep]}")
keep=${2:-}
mirror=${PAVISE_DEBIAN_MIRROR:-http://deb.debian.org/debian}
root=$(mktemp -d /var/tmp/pavise-package-test.XXXXXX)
chmod 755 "$root"  # apt reads it as a user of its own

say() { printf '==> %s\n' "$*" >&2; }
finish() {
  umount "$root/proc" 2>/dev/null || true
  [[ $keep == --keep ]] && say "kept: $root" || rm -rf --one-file-system "$root"
}
trap finish EXIT

say "Debian 12 from $mirror"
debootstrap --variant=minbase --include=ca-certificates bookworm "$root" "$mirror" >"$packages/debootstrap.log" 2>&1 ||
  { tail -5 "$packages/debootstrap.log" >&2; exit 1; }
cp /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
mkdir "$root/packages"
cp "$packages"/*.deb "$root/packages"
# Nothing is to be started in here.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
  DEBIAN_FRONTEND=noninteractive OMP_NUM_THREADS=2 "$@"; }
package() { (cd "$packages" && printf '/packages/%s\n' "$1"_*.deb); }
install() { inside apt-get -qq -y --no-install-recommends install "$@" >>"$packages/apt.log" 2>&1 ||
  { tail -15 "$packages/apt.log" >&2; exit 1; }; }
: >"$packages/apt.log"
inside apt-get -qq update

say "pavise alone"
install "$(package pavise)"
inside pavise --version
inside sh -euc '
  cd /root && mkdir model && head -c 3000000 /dev/urandom >model/weights.bin
  pavise keygen -q -o key.pem
  pavise sign -q model --private-key key.pem --signature model.sig
  pavise verify model --public-key key.pub --signature model.sig
  printf x | dd of=model/weights.bin bs=1 seek=1000 conv=notrunc status=none
  code=0; pavise verify -q model --public-key key.pub --signature model.sig || code=$?
  [ $code = 1 ] || { echo "a changed model: exit code $code" >&2; exit 1; }'
# What is not there is named, with what would bring it.
inside sh -uc 'pavise train --data x --output y 2>&1; [ $? = 3 ]' | grep "Debian package pavise-train"

say "pavise-worker and pavise-train"
install "$(package pavise-worker)" "$(package pavise-train)"
inside pavise-worker --version
inside pavise train --help >/dev/null

say "libpavise-dev"
install "$(package libpavise0)" "$(package libpavise-dev)" g++ cmake make libtorch-dev
inside sh -euc '
  cd /root
  gcc -std=c99 -Wall -Werror /usr/share/doc/libpavise-dev/examples/load.c -lpavise -lm -o load
  # A safetensors file of one tensor, 1.0 and 2.0, under a header of 56 (octal 070) bytes.
  mkdir numbers
  printf "\\070\\0\\0\\0\\0\\0\\0\\0%-56s\\0\\0\\200\\077\\0\\0\\0\\100" \
    "{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}" >numbers/n.safetensors
  pavise sign -q numbers --private-key key.pem --signature numbers.sig
  ./load numbers numbers.sig key.pub t | tee sum; grep -q "^sum 3.0" sum
  printf "\\100" | dd of=numbers/n.safetensors bs=1 seek=67 conv=notrunc status=none
  if ./load numbers numbers.sig key.pub t; then echo "a changed tensor was loaded" >&2; exit 1; fi'
if inside grep -q "^set(pavise_has_cuda ON)" /usr/lib/cmake/Pavise/PaviseConfig.cmake; then
  say "LEFT OUT: the C++ example. These packages were built with CUDA, whose toolkit is not Debian's; build them with -DPAVISE_CUDA=OFF"
else
  inside sh -euc '
    cmake -S /usr/share/doc/libpavise-dev/examples/protect -B /root/protect -DCMAKE_BUILD_TYPE=Release >/dev/null
    cmake --build /root/protect
    /root/protect/protect'
fi

say "removal"
inside apt-get -qq -y remove pavise pavise-worker libpavise0 >>"$packages/apt.log" 2>&1
for program in pavise pavise-train pavise-worker; do
  if inside sh -c "command -v $program"; then say "$program is still there"; exit 1; fi
done
say "all of it worked"
