#!/usr/bin/env bash
# Installs what is missing of the packages in scripts/packages.txt, and nothing else. Where nothing is
# missing it neither calls apt nor touches the network, so every make target can begin with it.
#
# Usage: bootstrap.sh GROUP...        (groups: see packages.txt)
#        bootstrap.sh --list GROUP... prints the names and installs nothing
# PAVISE_SKIP_BOOTSTRAP=1 skips the check, for machines where the packages have other names.
set -euo pipefail

directory=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
packages_file="$directory/packages.txt"

say() { printf 'bootstrap: %s\n' "$*" >&2; }

list_only=no
if [[ ${1:-} == --list ]]; then
  list_only=yes
  shift
fi
if [[ $# -eq 0 ]]; then
  say "usage: bootstrap.sh [--list] GROUP..."
  exit 2
fi

wanted=()
for group in "$@"; do
  mapfile -t of_group < <(awk -v group="[$group]" '
    /^[[:space:]]*(#|$)/ { next }
    /^\[/ { inside = ($1 == group); next }
    inside { print $1 }' "$packages_file")
  if [[ ${#of_group[@]} -eq 0 ]]; then
    say "no group [$group] in $packages_file"
    exit 2
  fi
  wanted+=("${of_group[@]}")
done

if [[ $list_only == yes ]]; then
  printf '%s\n' "${wanted[@]}" | sort -u
  exit 0
fi
if [[ ${PAVISE_SKIP_BOOTSTRAP:-} == 1 ]]; then
  exit 0
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  say "this machine has no apt: automatic set-up works on Debian 12 only."
  say "Install what your system calls these packages, then run again with PAVISE_SKIP_BOOTSTRAP=1:"
  printf '%s\n' "${wanted[@]}" | sort -u | paste -sd' ' - | fold -s -w 90 | sed 's/^/  /' >&2
  exit 3
fi

# A package counts where it is installed, or where an installed one provides it.
missing=()
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package} ${Provides}\n' 2>/dev/null |
  awk '$1 == "installed" { gsub(/\([^)]*\)|,/, ""); $1 = ""; print }' | tr ' ' '\n')
for package in $(printf '%s\n' "${wanted[@]}" | sort -u); do
  grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi

say "missing: ${missing[*]}"
as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    say "this needs root, and there is no sudo. As root, run:"
    say "  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    exit 3
  fi
  as_root=(sudo)
  # A prompt that nobody sees would hang an unattended run.
  if ! [[ -t 0 ]] && ! sudo -n true 2>/dev/null; then
    say "sudo wants a password and there is no terminal to type it on. As root, run:"
    say "  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    exit 3
  fi
fi

# shellcheck disable=SC1091
release=$(. /etc/os-release && printf '%s %s' "${ID:-unknown}" "${VERSION_ID:-}")
[[ $release == "debian 12" ]] ||
  say "this is $release: Pavise is tested on Debian 12, and package names may differ"

apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}
install_missing() { apt install --yes --quiet --no-install-recommends "${missing[@]}" >&2; }
all_known() {
  local package
  for package in "${missing[@]}"; do
    apt-cache policy "$package" | grep -q 'Candidate: [^(]' || return 1
  done
}

# The package lists are fetched only where they are absent, or where they turn out to be stale.
updated=no
if ! all_known; then
  say "fetching the package lists"
  apt update --quiet >&2
  updated=yes
fi
if ! install_missing; then
  if [[ $updated == yes ]]; then
    say "apt-get could not install: ${missing[*]} (see above)"
    exit 3
  fi
  say "fetching the package lists, which may be stale, and trying once more"
  apt update --quiet >&2
  if ! install_missing; then
    say "apt-get could not install: ${missing[*]} (see above)"
    exit 3
  fi
fi
say "installed: ${missing[*]}"
