#!/usr/bin/env python3
"""Runs the demo's story and looks at what it leaves: artefacts, refusals, processes.

Usage: demo_check.py [BIN]     [build/release/bin]
Prints PASS, FAIL or SKIP lines, one a check.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
STORY = ROOT / "scripts/demo_story.py"
WORK = ROOT / "build/demo-check"
SKIPPED_EXIT_CODE = 77
# In the order in which they are shown, the broker's own beside the host's.
REFUSALS = [
    ("one data byte", "content-mismatch", "changed.sealed"),
    ("one executable", "measurement-mismatch", "host/bin/pavise-train"),
    ("one executable, at the broker", "measurement-mismatch", "host/bin/pavise-train"),
    ("one worker lying", "result-wrong", "worker localhost:"),
    ("one old agreement", "version-too-old", "agreement"),
]


class Skipped(Exception):
    """With the reason."""


class Check:
    def __init__(self, programs):
        self.programs = programs
        self.work = WORK / "story"
        self.said = ""
        self.summary = {}

    def words(self, *more):
        return [sys.executable, "-B", STORY, "--programs", self.programs, "--work", self.work, *more]

    def pavise(self, *words, expect=0):
        done = subprocess.run([self.programs / "pavise", *words, "--json"], cwd=self.work, capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def trust(self):
        return [
            "--agreement",
            self.summary["agreement"],
            "--broker-key",
            "trust/broker.pub",
            "--log-key",
            "trust/broker.vkey",
        ]


def left_over(work):
    """Processes that have to do with that folder."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(work) in words and int(process.name) != os.getpid():
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def sockets():
    return set(pathlib.Path(tempfile.gettempdir()).glob("pavise-demo-*"))


def it_runs_to_its_end(check):
    before = sockets()
    done = subprocess.run(check.words(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    check.said = done.stdout
    if done.returncode == SKIPPED_EXIT_CODE:
        raise Skipped(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-4000:]
    assert "\033" not in done.stdout and "\r" not in done.stdout, "control codes, and no terminal"
    for number in range(1, 11):
        assert re.search(rf"^{number}\. ", done.stdout, re.MULTILINE), f"no chapter {number}"
    assert left_over(check.work) == [], left_over(check.work)
    assert sockets() <= before
    check.summary = json.loads((check.work / "summary.json").read_text())
    is_synthetic = check.summary["data"] == "synthetic"
    assert ("SYNTHETIC DATA" in done.stdout) == is_synthetic
    print(f"      {check.summary['seconds']} s, data: {check.summary['data']}")


def every_attack_was_refused_for_its_reason(check):
    refusals = check.summary["refusals"]
    assert [each["tamper"] for each in refusals] == [each[0] for each in REFUSALS], refusals
    for refusal, (_, reason, item) in zip(refusals, REFUSALS):
        assert refusal["reason"] == reason and item in refusal["item"] and refusal["detail"], refusal
        assert re.search(rf"REFUSED +{refusal['reason']}\n", check.said), refusal
    for job in ("out-changed", "out-executable", "out-old"):
        assert not (check.work / "host" / job / "result").exists(), job


def the_result_holds_without_a_network(check):
    for output, runs in (("out", check.summary["run"]), ("out-lie", None)):
        verified = check.pavise("job", "verify", f"host/{output}/result", *check.trust())
        assert runs in (None, verified["run"]), verified
        assert verified["mode"] == "measured" and verified["version"] == 1, verified
        approvals = [each["stakeholder"] for each in verified["approvals"] if each["kind"] == "approval"]
        assert sorted(approvals) == ["clinic", "lab", "vendor"], approvals
        assert sorted(each["name"] for each in verified["inputs"]) == ["base", "recipe", "scans"], verified
        assert sorted(each["name"] for each in verified["outputs"]) == ["log", "tuned"], verified
    changed = check.work / "changed-result"
    shutil.copytree(check.work / "host/out/result", changed)
    sealed = changed / "outputs/tuned.sealed"
    content = bytearray(sealed.read_bytes())
    content[len(content) // 2] ^= 1
    sealed.write_bytes(content)
    refused = check.pavise("job", "verify", changed, *check.trust(), expect=1)
    assert refused["findings"][0]["reason"] == "content-mismatch", refused


def the_model_is_what_was_signed(check):
    words = ["verify", "lab/tuned/model", "--public-key", "lab/lab.pub", "--signature", "lab/tuned.sig"]
    check.pavise(*words)
    weights = check.work / "lab/tuned/model/model.safetensors"
    content = bytearray(weights.read_bytes())
    # Tuned, and not the model that it began with.
    assert content != (check.work / "lab/base/model.safetensors").read_bytes()
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert check.pavise(*words, expect=1)["findings"][0]["reason"] == "content-mismatch"


def the_audit_and_the_report_say_so(check):
    audit = json.loads((check.work / "audit.json").read_text())
    verdicts = [attack["verdict"] for attack in audit["attacks"]]
    assert audit["beyond_profile"] is False and verdicts.count("held") >= 8, verdicts
    page = (check.work / "report.html").read_text()
    assert "Accepted" in page and check.summary["run"] in page and check.summary["agreement"] in page
    assert "<script" not in page


def what_is_sealed_is_not_readable(check):
    scans = (check.work / "clinic/scans/scans.npz").read_bytes()
    piece = scans[len(scans) // 2 :][:64]
    readers = [
        path
        for path in check.work.rglob("*")
        if path.is_file() and not path.is_symlink() and piece in path.read_bytes()
    ]
    assert [str(path.relative_to(check.work)) for path in readers] == ["clinic/scans/scans.npz"], readers


def an_interruption_stops_all_that_it_started(check):
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            check.words("--data", "synthetic"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            if line.startswith("5. "):  # broker, TPMs and workers run
                break
        assert len(left_over(check.work)) > 5, left_over(check.work)
        process.send_signal(number)
        said = process.stdout.read()
        assert process.wait() == 128 + number, said
        assert left_over(check.work) == [], left_over(check.work)
    # Killed, it can stop nothing: the kernel tells them.
    process = subprocess.Popen(
        check.words("--data", "synthetic"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        if line.startswith("4. "):
            break
    process.kill()
    process.wait()
    for _ in range(300):
        if not left_over(check.work):
            break
        time.sleep(0.1)
    assert left_over(check.work) == [], left_over(check.work)


def what_is_missing_is_said(check):
    done = subprocess.run(check.words("--data", WORK / "nothing"), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no .npz file there" in done.stdout, done
    mine = WORK / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("years of work")
    words = [word if word != check.work else mine for word in check.words()]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 2
    assert (mine / "thesis").read_text() == "years of work"
    environment = {**os.environ, "PATH": str(WORK / "nothing")}
    done = subprocess.run(check.words(), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == SKIPPED_EXIT_CODE and "is not installed (apt-get install" in done.stdout, done


CHECKS = [it_runs_to_its_end, every_attack_was_refused_for_its_reason, the_result_holds_without_a_network,
          the_audit_and_the_report_say_so, what_is_sealed_is_not_readable, the_model_is_what_was_signed,
          an_interruption_stops_all_that_it_started, what_is_missing_is_said]  # fmt: skip


def main():
    check = Check(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/release/bin").resolve())
    if not (check.programs / "lying_worker").exists():
        print("SKIP: demo: this build has no workers (gRPC) or no tests")
        return SKIPPED_EXIT_CODE
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    failed = False
    for each in CHECKS:
        name = each.__name__.replace("_", " ")
        try:
            each(check)
            print(f"PASS: {name}", flush=True)
        except Skipped as skipped:
            print(f"SKIP: {name}: {skipped}", flush=True)
            return SKIPPED_EXIT_CODE
        except Exception:  # noqa: BLE001 - a check's failure, whatever it is
            failed = True
            print(f"FAIL: {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
            if not check.summary:
                break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
