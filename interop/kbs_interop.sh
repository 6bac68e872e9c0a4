#!/usr/bin/env bash
# Proves that a client written from the published key broker protocol, sharing no code with Pavise,
# obtains a resource, and that it is refused where it must be.
#
# Usage: kbs_interop.sh [PAVISE]     [build/release/bin/pavise]
# Exit 0: all passed. 1: something failed. 77: skipped, with the reason on a line "SKIP: ...".
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pavise=${1:-$root/build/release/bin/pavise}

code=0
reason=$("$root/interop/install.sh") || code=$?
if [[ $code -eq 77 ]]; then
  echo "SKIP: key broker client: $reason"
  exit 77
elif [[ $code -ne 0 ]]; then
  echo "FAIL: installing what the key broker client needs"
  exit 1
fi
exec "$root/build/interop-venv/bin/python" -B "$root/interop/kbs_interop_test.py" "$pavise"
