#!/usr/bin/env python3
"""Holds the includes and the CMake links of pavise/ against the areas' order.

Usage: check_layers.py [ROOT]     exit 0: nothing wrong; 1: findings, one a line; 2: usage

What is checked:
  1. An area includes only what the table below allows it, its tests included.
  2. internal/ headers are included by their own area only, testing/ headers by tests only.
  3. Vendor headers appear in .cc files, and in headers only below internal/ or a folder of that name.
  4. Project headers are included by their path from the root, so that nothing escapes 1 and 2.
  5. CMakeLists.txt: an area's USES and PRIVATE_USES name what it includes, no more and no less; areas
     are added lowest first; every source, test and fuzz target belongs to a CMake target. A folder of
     an area may be a target of its own, pavise_area(<area>_<folder> ...), held to the same; the rest
     of the area may not include it.
"""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import includes  # noqa: E402

EVERYTHING = "everything"

# Lowest first. What each may use besides `base` and `crypto`; "area/folder" allows that folder only.
# This is the table of docs/architecture.md.
AREAS = {
    "base": [],
    "crypto": [],
    "hash": [],
    "model": [],
    "signing": ["hash", "model"],
    "loading": ["hash", "model", "signing"],
    "evidence": [],
    "host": ["hash/arithmetic", "signing", "evidence"],
    "policy": ["signing", "evidence"],
    "vault": [],
    "ledger": [],
    "kbs": [],
    "broker": ["policy", "vault", "ledger", "kbs", "evidence/appraise", "evidence/testing"],
    "agent": ["evidence/collect", "kbs", "vault", "ledger", "signing", "loading", "policy"],
    "offload": [],
    "train": ["offload", "hash", "model", "loading", "signing"],
    "audit": ["offload", "train"],
    "job": ["evidence", "policy", "vault", "ledger", "kbs", "agent", "offload", "train"],
    "cli": [EVERYTHING],
}

# Vendor: include pattern, folders that are named after it.
VENDORS = {
    "CUDA": (r"cuda|cublas|cudnn|nvrtc|nvml|cub/|thrust/|cutlass/", {"cuda"}),
    "OpenCL": (r"CL/|OpenCL/", {"opencl"}),
    "Open MPI": (r"mpi\.h$|mpi-ext|openmpi/", {"mpi"}),
    "tpm2-tss": (r"tss2/", {"tss2", "tpm"}),
    "libtorch": (r"torch/|ATen/|c10/", {"torch"}),
    "gRPC": (r"grpc/|grpcpp/|grpc\+\+/|google/protobuf/", {"grpc"}),
    "SQLite": (r"sqlite3", {"sqlite"}),
    "PostgreSQL": (r"pqxx/|libpq|postgresql/", {"postgresql", "pqxx"}),
    "OpenSSL": (r"openssl/", {"openssl"}),
    "p11-kit": (r"p11-kit/", {"p11_kit", "pkcs11"}),
    "oneDNN": (r"oneapi/dnnl/|dnnl\.h", {"onednn"}),
    "Eigen": (r"Eigen/", {"eigen"}),
    "liburing": (r"liburing|linux/io_uring", {"io_uring", "liburing"}),
    "Highway": (r"hwy/", {"highway"}),
    "yaml-cpp": (r"yaml-cpp/", {"yaml"}),
    "simdjson": (r"simdjson\.h", {"simdjson"}),
    "CLI11": (r"CLI/", {"cli11"}),
    "libxml2 and libxmlsec1": (r"libxml/|xmlsec/", {"xmlsec"}),
    "libcbor": (r"cbor\.h|cbor/", {"cbor"}),
    "Nettle": (r"nettle/|gmp\.h", {"nettle"}),
    "Boost": (r"boost/", {"boost"}),
    "prometheus-cpp": (r"prometheus/", {"prometheus"}),
}
_VENDOR_PATTERNS = {name: re.compile(pattern) for name, (pattern, _) in VENDORS.items()}

_TEST_SUFFIXES = ("_test.cc", "_test.cu")
_ENTRY_SUFFIXES = ("_fuzz.cc", "_bench.cc")


def area_of(path):
    """The area of "pavise/<area>/...", None elsewhere."""
    parts = pathlib.PurePosixPath(path).parts
    return parts[1] if len(parts) > 2 and parts[0] == "pavise" else None


def is_test(path):
    return path.name.endswith(_TEST_SUFFIXES) or "testing" in path.parts


def may_use(area, target):
    """Whether `area` may include the project header `target`."""
    target_area = area_of(target)
    if target_area == area:
        return True
    order = list(AREAS)
    if target_area not in AREAS or order.index(target_area) > order.index(area):
        return False
    if target_area in ("base", "crypto"):
        return True
    for allowed in AREAS[area]:
        if allowed in (EVERYTHING, target_area) or target.startswith(f"pavise/{allowed}/"):
            return True
    return False


def allowed_text(area):
    order = list(AREAS)
    below = [name for name in ("base", "crypto") if order.index(name) < order.index(area)]
    if EVERYTHING in AREAS[area]:
        return "everything below it"
    return ", ".join(below + AREAS[area]) or "nothing"


def check_file(root, path):
    findings = []
    area = area_of(path)
    for include in includes.parse_includes((root / path).read_text("utf-8", "replace")):
        where = f"{path}:{include.line}"
        target = include.target
        if include.is_macro:
            findings.append(f"{where}: an include through a macro ({target}) hides what it includes")
            continue
        if include.is_quoted and ".." in pathlib.PurePosixPath(target).parts:
            findings.append(f'{where}: "{target}": include by the path from the root (pavise/...)')
            continue
        if target.startswith("pavise/"):
            findings.extend(check_project_include(root, path, area, where, target))
            continue
        if include.is_quoted and (root / path.parent / target).is_file():
            findings.append(f'{where}: "{target}": include by the path from the root (pavise/...)')
        findings.extend(check_vendor_include(path, where, target))
    return findings


def check_project_include(root, path, area, where, target):
    findings = []
    target_area = area_of(target)
    target_parts = pathlib.PurePosixPath(target).parts
    if ".." in target_parts:
        return [f"{where}: {target}: '..' in an include"]
    if target_area not in AREAS:
        return [f"{where}: {target}: there is no area '{target_area}'"]
    if not (root / target).is_file():
        findings.append(f"{where}: {target}: no such header")
    if area is not None and area in AREAS and not may_use(area, target):
        findings.append(
            f"{where}: {area} may not include {target_area}: it may use {allowed_text(area)}"
        )
    if "internal" in target_parts and target_area != area:
        findings.append(f"{where}: {target}: internal to {target_area}")
    if "testing" in target_parts and not (is_test(path) or path.name.endswith(_ENTRY_SUFFIXES)):
        findings.append(f"{where}: {target}: for tests only")
    return findings


def check_vendor_include(path, where, target):
    if path.suffix in (".cc", ".cu") or "internal" in path.parts:
        return []
    for vendor, pattern in _VENDOR_PATTERNS.items():
        if pattern.match(target) and not VENDORS[vendor][1] & set(path.parts):
            return [f"{where}: <{target}> ({vendor}) in a header: keep it in a .cc file"]
    return []


_CALL = re.compile(r"\b(?P<name>[a-z_]+)\s*\((?P<arguments>[^()]*)\)", re.IGNORECASE)
_KEYWORDS = {"SOURCES", "USES", "PRIVATE_USES", "PUBLIC", "PRIVATE", "INTERFACE"}


def cmake_calls(text):
    """(command, {keyword: [arguments]}) of every call without nested parentheses; "" holds those
    before the first keyword."""
    text = re.sub(r"#[^\n]*", "", text)
    for call in _CALL.finditer(text):
        arguments = {"": []}
        keyword = ""
        for word in call["arguments"].split():
            word = word.strip('"')
            if word in _KEYWORDS:
                keyword = word
                arguments.setdefault(keyword, [])
            else:
                arguments[keyword].append(word)
        yield call["name"].lower(), arguments


def check_cmake(root, files):
    findings = []
    order = list(AREAS)
    top = root / "CMakeLists.txt"
    if not top.is_file():
        return ["CMakeLists.txt: missing"]
    added = [
        arguments[""][0].split("/")[1]
        for name, arguments in cmake_calls(top.read_text())
        if name == "add_subdirectory" and arguments[""] and arguments[""][0].startswith("pavise/")
    ]
    known = [area for area in added if area in AREAS]
    if known != sorted(known, key=order.index):
        findings.append(f"CMakeLists.txt: areas are not added lowest first: {' '.join(added)}")
    present = sorted({area_of(path) for path in files if area_of(path)} & set(AREAS))
    for area in present:
        if area not in added:
            findings.append(f"CMakeLists.txt: pavise/{area} is not added")
    for area in present:
        findings.extend(check_area_cmake(root, area, [p for p in files if area_of(p) == area]))
    return findings


def check_area_cmake(root, area, files):
    path = pathlib.Path("pavise", area, "CMakeLists.txt")
    if not (root / path).is_file():
        return [f"{path}: missing"]
    findings = []
    declared = {}
    listed = set()
    for name, arguments in cmake_calls((root / path).read_text()):
        every = [word for words in arguments.values() for word in words]
        listed.update(word for word in every if word.endswith((".cc", ".cu")))
        folder = folder_of_target(area, arguments[""][0]) if arguments[""] else None
        if name == "pavise_area" and folder is not None:
            links = arguments.get("USES", []) + arguments.get("PRIVATE_USES", [])
            declared[folder] = {
                word.removeprefix("pavise_") for word in links if word.startswith("pavise_")
            }
    if "" not in declared:
        return [f"{path}: no pavise_area({area} ...)"]
    for folder, links in sorted(declared.items()):
        findings.extend(check_target_links(root, area, folder, links, set(declared) - {""}, files))

    for file in files:
        relative = file.relative_to(pathlib.Path("pavise", area)).as_posix()
        if file.suffix in (".cc", ".cu") and relative not in listed:
            findings.append(f"{file}: belongs to no CMake target, so it is neither built nor run")
    return findings


def folder_of_target(area, target):
    """"" for the area's own target, "collect" for evidence_collect; None for other areas'."""
    if target == area:
        return ""
    return target[len(area) + 1 :] if target.startswith(f"{area}_") else None


def area_of_link(link):
    """The area of pavise_<link>, which may be one of its folders."""
    return next((area for area in AREAS if folder_of_target(area, link) is not None), None)


def check_target_links(root, area, folder, declared, folders_of_area, files):
    """One CMake target of an area: its own, or that of a folder."""
    path = pathlib.Path("pavise", area, "CMakeLists.txt")

    def target_of(project_path):
        """The link that provides a header, None where there is none."""
        owner = area_of(project_path)
        if owner not in AREAS:
            return None
        part = pathlib.PurePosixPath(project_path).parts[2]
        if owner == area:
            return f"{area}_{part}" if part in folders_of_area else area
        return f"{owner}_{part}" if f"{owner}_{part}" in declared else owner

    findings = []
    own = f"{area}_{folder}" if folder else area
    for used in sorted(declared):
        if area_of_link(used) == area:
            if not folder or used != area:
                findings.append(f"{path}: {own} may not link {used}: it lies beside or above it")
            continue
        used_area = area_of_link(used)
        if used_area is not None and used != used_area:
            folders = [f"{used_area}/{folder_of_target(used_area, used)}"]
        else:
            folders = [used] + [entry for entry in AREAS[area] if entry.startswith(f"{used}/")]
        if area_of_link(used) is None:
            findings.append(f"{path}: pavise_{used}: no such area")
        elif not any(may_use(area, f"pavise/{place}/x.h") for place in folders):
            findings.append(f"{path}: {area} may not link {used}: it may use {allowed_text(area)}")

    included = {}
    for file in files:
        if is_test(file) or file.name.endswith(_ENTRY_SUFFIXES):
            continue
        if target_of(file.as_posix()) != own:
            continue
        for include in includes.parse_includes((root / file).read_text("utf-8", "replace")):
            used = target_of(include.target)
            if used not in (None, own):
                included.setdefault(used, f"{file}:{include.line}")
    for used in sorted(set(included) - declared):
        findings.append(f"{path}: {included[used]} includes {used}, but USES has no pavise_{used}")
    for used in sorted(declared - set(included)):
        if area_of_link(used) is not None:
            findings.append(f"{path}: USES has pavise_{used}, but nothing includes it")
    return findings


def check_tree(root):
    root = pathlib.Path(root)
    files = includes.code_files(root, "pavise")
    findings = []
    for path in files:
        area = area_of(path)
        if area not in AREAS:
            findings.append(f"{path}: not in a known area (they are listed in check_layers.py)")
            continue
        findings.extend(check_file(root, path))
    for path in includes.code_files(root, "fuzz"):
        findings.extend(check_file(root, path))
    findings.extend(check_cmake(root, files))
    return findings, len(files)


def main(arguments):
    if len(arguments) > 2 or (len(arguments) == 2 and arguments[1].startswith("-")):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    root = arguments[1] if len(arguments) == 2 else pathlib.Path(__file__).resolve().parent.parent
    findings, count = check_tree(root)
    for finding in findings:
        print(finding)
    if count == 0:
        print(f"no sources under {root}/pavise")
        return 1
    print(f"layers: {count} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
