#!/usr/bin/env bash
# Installs the reference tool (interop/requirements.txt) into build/interop-venv, once.
# Exit 0: it is there. 77: the package index does not answer, so there is nothing to test against;
# the reason is printed. 1: anything else.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/build/interop-venv
requirements=$root/interop/requirements.txt
log=$root/build/interop-install.log

wanted=$(sha256sum <"$requirements")
if [[ -f $venv/installed && $(<"$venv/installed") == "$wanted" ]]; then
  exit 0
fi

mkdir -p "$root/build"
rm -rf "$venv"
echo "interop: installing the reference tool into build/interop-venv" >&2
if ! python3 -m venv "$venv" >"$log" 2>&1; then
  echo "interop: python3 -m venv failed:" >&2
  tail -n 20 "$log" >&2
  exit 1
fi
if ! "$venv/bin/pip" install --disable-pip-version-check --no-input --timeout 20 --retries 1 \
  --requirement "$requirements" >"$log" 2>&1; then
  # An index that cannot be reached is nothing that this project can mend; a version that is gone is.
  unreachable='connection broken|NewConnectionError|ConnectionError|ConnectTimeout|ReadTimeout'
  unreachable+='|timed out|name resolution|ProxyError|SSLError|HTTP error (403|407|429|5[0-9][0-9])'
  if grep -Eq "$unreachable" "$log"; then
    echo "the Python package index does not answer"
    exit 77
  fi
  echo "interop: pip failed:" >&2
  tail -n 20 "$log" >&2
  exit 1
fi
printf '%s\n' "$wanted" >"$venv/installed"
