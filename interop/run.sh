#!/usr/bin/env bash
# Proves both directions against the reference tool (PyPI model-signing): it accepts what we sign, we
# accept what it signs, and neither accepts what was changed.
#
# Usage: run.sh [PAVISE]     [build/release/bin/pavise]
# Exit 0: all passed. 1: something failed. 77: skipped, with the reason on a line "SKIP: ...".
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pavise=${1:-$root/build/release/bin/pavise}

code=0
reason=$("$root/interop/install.sh") || code=$?
if [[ $code -eq 77 ]]; then
  echo "SKIP: reference tool: $reason"
  exit 77
elif [[ $code -ne 0 ]]; then
  echo "FAIL: installing the reference tool"
  exit 1
fi
exec "$root/build/interop-venv/bin/python" -B "$root/interop/interop_test.py" "$pavise"
