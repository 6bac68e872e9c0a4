#!/usr/bin/env python3
"""Every header of pavise/ brings what it needs, and a guard.

A header that the build's own source x.cc (or x.cu) includes before anything else is shown to bring what it
needs by that compilation; of it only the guard is looked at here. All others are compiled alone, twice included.

Usage: check_headers.py [BUILD_DIRECTORY]     [build/release]

Flags are those of the sources beside the header (compile_commands.json). What passed is remembered in
BUILD_DIRECTORY/header_check.json under a digest of the header, all project headers that it includes and
the flags, so that a second run compiles only what changed. Headers of a folder torch/ are left out, and counted,
where nothing beside them is compiled: there is no libtorch then.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import includes  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent


def flags_of(entry):
    """The compiler and its flags, without launcher, input, output and dependency files."""
    words = entry.get("arguments") or shlex.split(entry["command"])
    if pathlib.Path(words[0]).name in ("ccache", "sccache"):
        words = words[1:]
    flags = [words[0]]
    skip_next = False
    for word in words[1:]:
        if skip_next:
            skip_next = False
        elif word in ("-o", "-c", "-MF", "-MT", "-MQ"):
            skip_next = True
        elif word not in ("-MD", "-MMD"):
            flags.append(word)
    return flags


def flags_by_area(build):
    """(area, is it a test) -> flags; of a folder torch/, whose flags are its own, the folder -> flags."""
    found = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        try:
            path = pathlib.Path(entry["file"]).resolve().relative_to(ROOT)
        except ValueError:
            continue
        if len(path.parts) > 2 and path.parts[0] == "pavise":
            is_test = path.name.endswith("_test.cc") or "testing" in path.parts
            key = (path.parts[1], is_test)
            if path.parent.name == "torch":
                key = path.parent
            found.setdefault(key, (flags_of(entry), entry["directory"]))
    return found


def compiled_sources(build):
    """What compile_commands.json compiles, relative to the root."""
    found = set()
    for entry in json.loads((build / "compile_commands.json").read_text()):
        try:
            found.add(pathlib.Path(entry["file"]).resolve().relative_to(ROOT))
        except ValueError:
            continue
    return found


def is_first_of_its_source(header, sources):
    for suffix in (".cc", ".cu"):
        source = header.with_suffix(suffix)
        if source in sources:
            first = re.search(r'^\s*#\s*include\s+["<]([^">]+)', (ROOT / source).read_text(), re.M)
            if first and first.group(1) == header.as_posix():
                return True
    return False


def has_guard(text):
    """The first directive guards all of the file."""
    directives = re.findall(r"^\s*#\s*(\w+)(?:\s+(\w+))?", text, re.M)
    if directives[:1] == [("pragma", "once")]:
        return True
    return (
        len(directives) > 2
        and directives[0][0] == "ifndef"
        and directives[1] == ("define", directives[0][1])
        and directives[-1][0] == "endif"
    )


def compile_alone(header, flags, directory):
    line = f'#include "{header.as_posix()}"\n'
    command = flags + ["-fsyntax-only", "-Werror", "-x", "c++", "-"]
    result = subprocess.run(
        command, input=line + line, cwd=directory, text=True, capture_output=True, check=False
    )
    return header, result.returncode, result.stderr


def main(arguments):
    build = pathlib.Path(arguments[1] if len(arguments) > 1 else ROOT / "build/release").resolve()
    if not (build / "compile_commands.json").is_file():
        print(f"{build}/compile_commands.json is missing: configure first", file=sys.stderr)
        return 2
    headers = [path for path in includes.code_files(ROOT, "pavise") if path.suffix == ".h"]
    areas = flags_by_area(build)
    sources = compiled_sources(build)
    hashes = includes.ContentHashes(ROOT)
    cache_path = build / "header_check.json"
    try:
        passed = set(json.loads(cache_path.read_text()))
    except (OSError, ValueError):
        passed = set()

    failures = []
    waiting = []
    digests = {}
    without_libtorch = 0
    by_their_sources = 0
    for header in headers:
        if is_first_of_its_source(header, sources):
            by_their_sources += 1
            if not has_guard((ROOT / header).read_text()):
                failures.append((header, "no guard around all of it\n"))
            continue
        if header.parent.name == "torch" and header.parent not in areas:
            without_libtorch += 1
            continue
        is_test = "testing" in header.parts
        area = header.parts[1]
        flags, directory = (
            areas.get(header.parent)
            or areas.get((area, is_test))
            or areas.get((area, False))
            or (None, None)
        )
        if flags is None:
            failures.append((header, f"no source of area '{area}' is compiled in {build}\n"))
            continue
        digests[header] = hashes.closure_digest(header, *flags)
        if digests[header] not in passed:
            waiting.append((header, flags, directory))

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for header, code, message in pool.map(lambda task: compile_alone(*task), waiting):
            if code != 0:
                failures.append((header, message))
                del digests[header]

    temporary = cache_path.with_suffix(".tmp")
    temporary.write_text(json.dumps(sorted(digests.values())))
    temporary.replace(cache_path)

    for header, message in failures:
        print(f"{header}: not self-contained, or without a guard")
        print(message, end="")
    print(
        f"headers: {len(headers)} checked ({by_their_sources} by the sources that begin with them, "
        f"{len(waiting)} compiled alone), {without_libtorch} left out without libtorch, {len(failures)} findings"
    )
    return 1 if failures or not headers else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
