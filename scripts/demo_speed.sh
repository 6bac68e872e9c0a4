#!/usr/bin/env bash
# Signs a model, verifies it, flips one byte, shows the refusal, and prints the speeds.
#
# Usage: demo_speed.sh [MODEL]     or with MODEL in the environment (make demo-speed MODEL=PATH)
# Without a model it writes one of 2 GiB. Everything it writes lies in build/demo-speed; a MODEL that you give
# is only read: what gets tampered with is a copy.
# Exit 0: the sound model was accepted and the tampered one refused. 1: anything else.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pavise=${PAVISE:-build/release/bin/pavise}
work=build/demo-speed
model=${1:-${MODEL:-}}
[[ -z $model ]] || model=$(realpath -- "$model")
cd "$root"
# A copy of a user's model may take this much; of a larger one a single file is copied and signed.
most_copied_bytes=$((8 << 30))

bold='' green='' red='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  bold=$'\e[1m' green=$'\e[1;32m' red=$'\e[1;31m' plain=$'\e[0m'
fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fail() {
  printf '%sdemo failed:%s %s\n' "$red" "$plain" "$*" >&2
  exit 1
}
# Shows the command, then runs it.
show() {
  local line
  line=$(printf '%q ' "$@")
  printf '  $ %s\n' "${line% }"
  # One stream, so that what is said about a command stays below it where the output goes to a file.
  "$@" 2>&1
}

[[ -x $pavise ]] || fail "$pavise is not built: run make demo-speed"
mkdir -p "$work"

step "1. The model"
if [[ -n $model ]]; then
  [[ -e $model ]] || fail "$model: no such file or directory"
  own_model=no
else
  model=$work/model
  own_model=yes
  python3 "scripts/make_model.py" "$model" --size 2GiB | sed 's|^|  |'
fi
victim=$(python3 "scripts/demo_report.py" largest "$model") || fail "nothing to sign"
du -sh -L --apparent-size -- "$model" | sed 's|^|  |'

signature=$work/model.sig
copy=$work/tampered
flipped=''  # "FILE OFFSET" while a byte of a model that is kept is changed
clean_up() {
  if [[ -n $flipped ]]; then
    # shellcheck disable=SC2086
    python3 "scripts/flip_byte.py" "${flipped% *}" "${flipped##* }" || true
  fi
  if [[ $own_model == no && -e $copy ]]; then
    chmod -R u+w -- "$copy" || true
    rm -rf -- "$copy"
  fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "2. A signing key"
rm -f "$work/key.pem" "$work/key.pub"
show "$pavise" keygen -o "$work/key.pem"

step "3. Sign"
show "$pavise" sign "$model" --private-key "$work/key.pem" --signature "$signature"

step "4. Verify"
show "$pavise" verify "$model" --public-key "$work/key.pub" --signature "$signature"

# For the table: the same again, now that the file is in memory as far as it fits.
quiet() { "$pavise" "$@" --json >"$json" 2>"$work/stderr.txt"; }
json=$work/sign.json
quiet sign "$model" --private-key "$work/key.pem" --signature "$work/again.sig" ||
  fail "signing again: $(cat "$json" "$work/stderr.txt")"
json=$work/verify.json
quiet verify "$model" --public-key "$work/key.pub" --signature "$signature" ||
  fail "verifying again: $(cat "$json" "$work/stderr.txt")"
speeds=("sign (SHA-256 and BLAKE3)=$work/sign.json" "verify (BLAKE3 tree)=$work/verify.json")
if [[ $own_model == yes ]]; then
  json=$work/layer.json
  quiet verify "$model" --public-key "$work/key.pub" --signature "$signature" \
    --tensors 'model.layers.0.*' || fail "verifying one layer: $(cat "$json" "$work/stderr.txt")"
  speeds+=("verify --tensors 'model.layers.0.*'=$work/layer.json")
fi

step "5. Flip one byte"
tampered=$model
tampered_signature=$signature
if [[ $own_model == no ]]; then
  chmod -R u+w -- "$copy" 2>/dev/null || true
  rm -rf -- "$copy"
  size_bytes=$(du -sLb -- "$model" | cut -f1)
  free_bytes=$(df --output=avail -B1 -- "$work" | tail -n 1)
  if ((size_bytes <= most_copied_bytes && size_bytes + (1 << 28) < free_bytes)); then
    mkdir -p "$copy"
    tampered=$copy/$(basename -- "$model")
    cp -rL --reflink=auto -- "$model" "$tampered"
    if [[ -d $model ]]; then
      victim=$tampered/${victim#"$model"/}
    else
      victim=$tampered
    fi
    echo "  in a copy: yours stays as it is"
  else
    # Too large to copy: the smallest file of the kind shows the same.
    smallest=$(find -L "$model" -type f -name "*.${victim##*.}" -size +0 -printf '%s %p\n' |
      sort -n | head -n 1 | cut -d' ' -f2-)
    mkdir -p "$copy"
    tampered=$copy/$(basename -- "$smallest")
    cp -L --reflink=auto -- "$smallest" "$tampered"
    chmod u+w -- "$tampered"
    victim=$tampered
    tampered_signature=$work/one_file.sig
    echo "  the model is too large to copy: in a copy of its smallest such file, signed by itself"
    show "$pavise" sign "$tampered" --private-key "$work/key.pem" --signature "$tampered_signature"
  fi
  chmod -R u+w -- "$copy"
fi
offset=$(($(stat -c %s -- "$victim") * 5 / 8))
[[ $own_model == yes ]] && flipped="$victim $offset"
python3 "scripts/flip_byte.py" "$victim" "$offset"
echo "  byte $offset of $victim"

step "6. Verify again"
code=0
show "$pavise" verify "$tampered" --public-key "$work/key.pub" --signature "$tampered_signature" ||
  code=$?
[[ $code -eq 1 ]] || fail "the tampered model was not refused (exit code $code, expected 1)"
json=$work/refused.json
code=0
quiet verify "$tampered" --public-key "$work/key.pub" --signature "$tampered_signature" || code=$?
[[ $code -eq 1 ]] || fail "the tampered model was not refused the second time (exit code $code)"
item=''
[[ -d $tampered ]] && item=$(basename -- "$victim")
python3 "scripts/demo_report.py" refusal "$json" "$item" ||
  fail "it was refused, but not for the byte that was flipped"
printf '  %srefused, as it must be%s (exit code 1)\n' "$green" "$plain"

step "7. Speeds on this machine ($(nproc) CPUs; the model was read before, so it may be in memory)"
python3 "scripts/demo_report.py" speeds "${speeds[@]}"
