#!/usr/bin/env bash
# Boots host images in QEMU and appraises the evidence that they bring back: the one that was predicted
# is accepted, and each that differs is refused. Then the whole story: three owners, a broker, such a host.
#
# Usage: run.sh [BUILD]     [build/release], with pavise, pavise-agent and pavise-init in bin/
# Exit 0: all passed. 1: something failed. 77: skipped, with the reason on a line "SKIP: ...".
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${1:-$root/build/release}
work=$root/build/measured-boot

for program in qemu-system-x86_64 swtpm swtpm_setup mksquashfs veritysetup mkfs.vfat mcopy dpkg-deb; do
  if ! command -v "$program" >/dev/null && [[ ! -x /usr/sbin/$program ]]; then
    echo "SKIP: measured boot: $program is not installed (scripts/bootstrap.sh test)"
    exit 77
  fi
done

# Debian's kernel, unpacked once. What the archive has now is what is booted: nothing of the kernel is
# assumed but what its package says.
mkdir -p "$work"
if [[ ! -f $work/kernel/unpacked ]]; then
  rm -rf "$work/kernel" "$work/download"
  mkdir -p "$work/download"
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    awk '$1 == "Depends:" { print $2; exit }')
  if [[ -z $package ]] ||
    ! (cd "$work/download" && apt-get -q download "$package" >"$work/download.log" 2>&1); then
    echo "SKIP: measured boot: Debian's archive does not answer, so there is no kernel to boot"
    exit 77
  fi
  dpkg-deb -x "$work/download/"*.deb "$work/kernel"
  touch "$work/kernel/unpacked"
fi

code=0
reason=$("$root/interop/install.sh") || code=$?
python=python3
[[ $code -eq 0 ]] && python=$root/build/interop-venv/bin/python
failed=0
"$python" -B "$root/measured_boot/boot_test.py" "$build/bin" "$work" || failed=1
if ! "$python" -c 'import cryptography' 2>/dev/null; then
  echo "SKIP: story: no Python with the library cryptography (make interop)"
elif ! command -v bwrap >/dev/null; then
  echo "SKIP: story: bwrap is not installed (scripts/bootstrap.sh test)"
else
  "$python" -B "$root/measured_boot/story_test.py" "$build/bin" "$work" || failed=1
fi
exit "$failed"
