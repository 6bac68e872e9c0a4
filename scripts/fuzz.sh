#!/usr/bin/env bash
# Runs every fuzz target of a build for a bounded time, CPUs many at once. New inputs are collected in
# BUILD/corpus/TARGET; what crashes, hangs or eats memory is left in BUILD/finds/TARGET-*.
#
# Usage: fuzz.sh BUILD SECONDS
set -euo pipefail

if [[ $# -ne 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: fuzz.sh BUILD SECONDS" >&2
  exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$1
seconds=$2

mapfile -t targets < <(find "$build/bin" -maxdepth 1 -type f -name '*_fuzz' -perm -u+x | sort)
if [[ ${#targets[@]} -eq 0 ]]; then
  echo "fuzz: no targets in $build/bin" >&2
  exit 1
fi
mkdir -p "$build/finds" "$build/logs"

# Exits 0 where the target found nothing.
run_target() {
  local target=$1 name corpus
  name=$(basename "$target")
  corpus="$build/corpus/$name"
  mkdir -p "$corpus"
  local arguments=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -print_final_stats=1
    -artifact_prefix="$build/finds/$name-" "$corpus")
  [[ -d "$root/fuzz/corpus/$name" ]] && arguments+=("$root/fuzz/corpus/$name")
  "$target" "${arguments[@]}" >"$build/logs/$name.log" 2>&1
}

echo "fuzz: ${#targets[@]} targets, $seconds s each, $(nproc) at once"
failed=0
passed=0
declare -A running=()
collect_one() {
  local finished code=0 name
  wait -n -p finished "${!running[@]}" || code=$?
  name=${running[$finished]}
  unset "running[$finished]"
  local runs
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/logs/$name.log")
  if [[ $code -eq 0 ]]; then
    passed=$((passed + 1))
    echo "PASS: $name: ${runs:-?} runs"
  else
    failed=$((failed + 1))
    echo "FAIL: $name: exit code $code; the input is in $build/finds, the end of the log is:"
    tail -n 40 "$build/logs/$name.log"
  fi
}
for target in "${targets[@]}"; do
  while [[ ${#running[@]} -ge $(nproc) ]]; do collect_one; done
  run_target "$target" &
  running[$!]=$(basename "$target")
done
while [[ ${#running[@]} -gt 0 ]]; do collect_one; done

echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
