#!/usr/bin/env python3
"""Reads what `pavise --json` printed, for demo_speed.sh.

Usage: demo_report.py largest MODEL       the file to tamper with (a safetensors file if there is one)
       demo_report.py speeds NAME=FILE... a table of the speeds in these results
       demo_report.py refusal FILE ITEM   exit 0 where FILE is a refusal that names ITEM's content (any item: "")
"""

import json
import pathlib
import sys


def largest(model):
    files = [model] if model.is_file() else [path for path in model.rglob("*") if path.is_file()]
    files = [path for path in files if not path.is_symlink() and path.stat().st_size > 0]
    with_tensors = [path for path in files if path.suffix in (".safetensors", ".gguf")]
    candidates = with_tensors or files
    if not candidates:
        return None
    return max(candidates, key=lambda path: (path.stat().st_size, str(path)))


def speeds(arguments):
    print(f"  {'step':<38}{'read':>12}{'seconds':>10}{'GB/s':>8}")
    for argument in arguments:
        name, _, path = argument.partition("=")
        result = json.loads(pathlib.Path(path).read_text())
        size_bytes = result.get("bytes_checked", result.get("bytes_hashed", 0))
        seconds = result["seconds"]
        rate = f"{size_bytes / 1e9 / seconds:.2f}" if seconds >= 0.001 else "-"
        print(f"  {name:<38}{size_bytes / 1e6:>9.1f} MB{seconds:>10.3f}{rate:>8}")


def refusal(path, item):
    try:
        result = json.loads(pathlib.Path(path).read_text())
    except ValueError as error:
        print(f"{path}: no JSON: {error}", file=sys.stderr)
        return 1
    named = [
        finding
        for finding in result.get("findings", [])
        if finding["reason"] == "content-mismatch" and item in finding["item"] + finding["detail"]
    ]
    if result.get("ok") is not False or result.get("exit_code") != 1 or not named:
        print(f"{path}: not the refusal that names {item}", file=sys.stderr)
        return 1
    return 0


def main(arguments):
    if len(arguments) >= 3 and arguments[1] == "largest":
        path = largest(pathlib.Path(arguments[2]))
        if path is None:
            print(f"{arguments[2]}: no file to sign", file=sys.stderr)
            return 1
        print(path)
        return 0
    if len(arguments) >= 3 and arguments[1] == "speeds":
        speeds(arguments[2:])
        return 0
    if len(arguments) == 4 and arguments[1] == "refusal":
        return refusal(arguments[2], arguments[3])
    print(__doc__.strip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
