#!/usr/bin/env bash
# The whole story on this machine (demo_story.py); with a model of yours, that first: signed, verified,
# one byte of a copy flipped, refused (demo_speed.sh).
#
# Usage: demo.sh [--data PATH] [--model PATH]     or make demo [DATA=PATH] [MODEL=PATH]
# Everything that is written lies in build/demo and build/demo-speed. Exit codes: demo_story.py's.
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
story=()
while (($# > 0)); do
  case $1 in
    --model)
      "$scripts/demo_speed.sh" "${2:?--model: which?}"
      shift 2
      ;;
    *)
      story+=("$1")
      shift
      ;;
  esac
done
exec python3 "$scripts/demo_story.py" "${story[@]}"
