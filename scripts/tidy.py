#!/usr/bin/env python3
"""clang-tidy over every source of pavise/; what passed and has not changed since is not checked again.

Usage: tidy.py BUILD_DIRECTORY [PATH...]     needs its compile_commands.json
"""

import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import includes  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent


def check(build, path):
    # GCC's own warning flags are unknown to clang, which is nothing to warn about here.
    command = ["clang-tidy", "--quiet", "-p", str(build), "--extra-arg=-Wno-unknown-warning-option"]
    result = subprocess.run(
        command + [str(ROOT / path)], cwd=ROOT, text=True, capture_output=True, check=False
    )
    return path, result.returncode, result.stdout + (result.stderr if result.returncode else "")


def main(arguments):
    if len(arguments) < 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    build = pathlib.Path(arguments[1]).resolve()
    if shutil.which("clang-tidy") is None:
        print("SKIP: clang-tidy is not installed")
        return 0
    compiled = {
        pathlib.Path(entry["file"]).resolve()
        for entry in json.loads((build / "compile_commands.json").read_text())
    }
    chosen = [pathlib.Path(path).resolve() for path in arguments[2:]]
    sources = [
        path
        for path in includes.code_files(ROOT, "pavise")
        if ROOT / path in compiled and (not chosen or ROOT / path in chosen)
    ]
    cache_path = build / "tidy.json"
    try:
        passed = set(json.loads(cache_path.read_text()))
    except (OSError, ValueError):
        passed = set()
    hashes = includes.ContentHashes(ROOT)
    settings = (ROOT / ".clang-tidy").read_text()
    digests = {path: hashes.closure_digest(path, settings) for path in sources}
    waiting = [path for path in sources if digests[path] not in passed]

    failures = 0
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for path, code, output in pool.map(lambda source: check(build, source), waiting):
            if code == 0:
                passed.add(digests[path])
            else:
                failures += 1
                print(f"{path}:\n{output}", end="", flush=True)
    temporary = cache_path.with_suffix(".tmp")
    temporary.write_text(json.dumps(sorted(passed)))
    temporary.replace(cache_path)
    print(
        f"tidy: {len(sources)} sources ({len(sources) - len(waiting)} unchanged since they passed), "
        f"{failures} with findings"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
