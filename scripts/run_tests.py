#!/usr/bin/env python3
"""Runs the named steps of `make test` and closes with "N passed, N failed, N skipped".

Usage: run_tests.py --preset NAME STEP...
  ctest    every test of build/NAME, in parallel
  layers   scripts/check_layers.py
  scripts  the tests of the scripts themselves
  headers  scripts/check_headers.py
  interop  interop/run.sh
  kbs-interop    interop/kbs_interop.sh
  measured-boot  measured_boot/run.sh
  jobs           measured_boot/job_test.py, with the kernel that measured-boot has fetched
  demo           scripts/demo_check.py

Every step runs whatever became of those before it. Exit 0: nothing failed. What was skipped is listed
with its reason; what ran nothing at all has failed.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import time
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
SKIPPED_EXIT_CODE = 77


@dataclasses.dataclass
class Result:
    passed: int = 0
    failures: list = dataclasses.field(default_factory=list)  # names
    skipped: list = dataclasses.field(default_factory=list)  # (name, reason)


def gtest_skip_reason(output):
    """What GTEST_SKIP() << said, or the last line of another program."""
    found = re.search(r": Skipped\n(?P<reason>.*?)\n\s*\[  SKIPPED", output, re.DOTALL)
    if found:
        return " ".join(found["reason"].split())
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


def read_junit(path):
    """The verdicts of ctest's JUnit file."""
    result = Result()
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name")
        skipped = case.find("skipped")
        if case.get("status") == "run" and skipped is None and case.find("failure") is None:
            result.passed += 1
        elif skipped is not None or case.get("status") == "disabled":
            output = case.findtext("system-out") or ""
            if skipped is None:
                result.skipped.append((name, "disabled in the source"))
            elif "SKIP" in skipped.get("message", ""):
                result.skipped.append((name, gtest_skip_reason(output)))
            else:  # a program that ctest could not start looks like a skipped test
                result.failures.append(name)
        else:
            result.failures.append(name)
    return result


def run_ctest(preset):
    build = ROOT / "build" / preset
    junit = build / "ctest.xml"
    junit.unlink(missing_ok=True)
    environment = dict(os.environ)
    environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    environment.setdefault("TSAN_OPTIONS", "halt_on_error=1:second_deadlock_stack=1")
    command = [
        "ctest",
        *("--test-dir", build),
        *("--parallel", len(os.sched_getaffinity(0))),
        "--output-on-failure",
        "--no-tests=error",
        *("--test-output-size-passed", 65536),
        *("--output-junit", junit),
    ]
    code = subprocess.run(list(map(str, command)), env=environment, check=False).returncode
    if not junit.is_file():
        return Result(failures=["ctest (it wrote no results)"])
    try:
        result = read_junit(junit)
    except xml.etree.ElementTree.ParseError as error:
        return Result(failures=[f"ctest ({junit}: {error})"])
    if code != 0 and not result.failures:
        result.failures.append(f"ctest (exit code {code})")
    return result


def run_script(name, *command):
    """A check that is one test: its exit code decides."""
    code = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=False).returncode
    return Result(passed=1) if code == 0 else Result(failures=[name])


def run_script_tests():
    suite = unittest.defaultTestLoader.discover(str(ROOT / "scripts"), pattern="*_test.py")
    outcome = unittest.TextTestRunner(stream=sys.stdout, verbosity=1).run(suite)
    failures = [case.id() for case, _ in outcome.failures + outcome.errors]
    skipped = [(case.id(), reason) for case, reason in outcome.skipped]
    return Result(outcome.testsRun - len(failures) - len(skipped), failures, skipped)


def run_verdicts(name, *command):
    """A script that prints PASS, FAIL and SKIP lines."""
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    result = Result()
    for line in process.stdout:
        print(line, end="", flush=True)
        verdict, _, rest = line.strip().partition(": ")
        if verdict == "PASS":
            result.passed += 1
        elif verdict == "FAIL":
            result.failures.append(f"{name}: {rest}")
        elif verdict == "SKIP":
            case, _, reason = rest.partition(": ")
            result.skipped.append((f"{name}: {case}", reason or "no reason given"))
    code = process.wait()
    if code not in (0, SKIPPED_EXIT_CODE) and not result.failures:
        result.failures.append(f"{name} (exit code {code})")
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", required=True)
    parser.add_argument("steps", nargs="+")
    arguments = parser.parse_args()
    steps = {
        "ctest": lambda: run_ctest(arguments.preset),
        "layers": lambda: run_script("layers", ROOT / "scripts/check_layers.py"),
        "scripts": run_script_tests,
        "headers": lambda: run_script(
            "headers", ROOT / "scripts/check_headers.py", ROOT / "build" / arguments.preset
        ),
        "interop": lambda: run_verdicts(
            "interop", ROOT / "interop/run.sh", ROOT / "build" / arguments.preset / "bin/pavise"
        ),
        "kbs-interop": lambda: run_verdicts(
            "key broker client",
            ROOT / "interop/kbs_interop.sh",
            ROOT / "build" / arguments.preset / "bin/pavise",
        ),
        "measured-boot": lambda: run_verdicts(
            "measured boot", ROOT / "measured_boot/run.sh", ROOT / "build" / arguments.preset
        ),
        "jobs": lambda: run_verdicts(
            "jobs",
            *(sys.executable, "-B", ROOT / "measured_boot/job_test.py"),
            *(ROOT / "build" / arguments.preset / "bin", ROOT / "build/measured-boot"),
        ),
        "demo": lambda: run_verdicts(
            "demo", ROOT / "scripts/demo_check.py", ROOT / "build" / arguments.preset / "bin"
        ),
    }
    for step in arguments.steps:
        if step not in steps:
            parser.error(f"no step '{step}'")

    total = Result()
    for step in arguments.steps:
        print(f"==> {arguments.preset}: {step}", flush=True)
        begin = time.monotonic()
        result = steps[step]()
        if result.passed == 0 and not result.failures and not result.skipped:
            result.failures.append(f"{step} (it ran nothing)")
        print(
            f"    {step} of {arguments.preset}: {result.passed} ok, {len(result.failures)} not, "
            f"{len(result.skipped)} left out, {time.monotonic() - begin:.0f} s",
            flush=True,
        )
        total.passed += result.passed
        total.failures += result.failures
        total.skipped += result.skipped

    print()
    reasons = {}
    for name, reason in total.skipped:
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        print(f"SKIPPED: {reason}")
        for name in names:
            print(f"    {name}")
    for name in total.failures:
        print(f"FAILED: {name}")
    print(
        f"{total.passed} passed, {len(total.failures)} failed, {len(total.skipped)} skipped",
        flush=True,
    )
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
