#!/usr/bin/env python3
"""Measures what the README claims, each figure as a ratio of two programs that took turns; appraisals of
evidence as rates by CPU time, what a key broker does as CPU time, and a training job in every trust mode
against training in the clear.

Usage: run.py --pavise PATH --output DIRECTORY [--repeats N] [--scale F] [--only WORD] [--strict]

A and B run alternately, several times; a figure is the median of the ratios of neighbours, so that
whatever slows the machine down for a while slows both. Answers are checked before anything is timed.
The files are made once, below the output directory; a benchmark whose files find no room on the disk, or
would not stay in memory, is left out, with the reason. --scale 0.125 takes files an eighth of the size,
which tries the script out and measures nothing worth keeping.

Exit 0: measured (a missed target is printed as MISS; with --strict it is exit 1). 1: an answer was
wrong. 2: usage.
"""

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import platform
import random
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MIB = 1 << 20
GIB = 1 << 30
SAMPLE_INTERVAL_S = 0.001
IMA_ENTRIES_PER_S = 300_000  # of CPU time, on one core


class WrongAnswer(Exception):
    pass


class LeftOut(Exception):
    pass


@dataclasses.dataclass
class Run:
    wall_s: float
    cpu_s: float  # user and system
    exit_code: int
    output: str
    peak_private_bytes: int = 0


@dataclasses.dataclass
class Row:
    what: str
    ours: str
    theirs: str
    figure: str
    target: str
    verdict: str  # "pass", "MISS", "-" where nothing is asked for
    cpu: str
    spread: str


def run(command, sample_memory=False):
    """Runs a command to its end. Output is kept; what goes to standard error comes with it."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    )
    peak = 0
    done = threading.Event()

    def sample():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, private_bytes(process.pid))
            time.sleep(SAMPLE_INTERVAL_S)

    sampler = threading.Thread(target=sample) if sample_memory else None
    if sampler:
        sampler.start()
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if sampler:
        done.set()
        sampler.join()
    cpu_s = usage.ru_utime + usage.ru_stime
    return Run(wall_s, cpu_s, process.returncode, output.decode("utf-8", "replace"), peak)


def private_bytes(pid):
    """Resident memory that is no page of a file: anonymous and shared-memory pages."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(match) * 1024 for match in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", text, re.M))


def checked(result, what):
    if result.exit_code != 0:
        raise WrongAnswer(f"{what}: exit code {result.exit_code}: {result.output.strip()}")
    return result


def take_turns(a, b, repeats):
    """[(Run of a, Run of b)], after one round that is not counted."""
    pairs = []
    for round_number in range(repeats + 1):
        pair = (a(), b())
        if round_number > 0:
            pairs.append(pair)
    return pairs


def seconds(runs):
    return statistics.median(r.wall_s for r in runs)


class Bench:
    def __init__(self, arguments):
        self.pavise = pathlib.Path(arguments.pavise).resolve()
        self.output = pathlib.Path(arguments.output).resolve()
        self.repeats = arguments.repeats
        self.scale = arguments.scale
        self.rows = []
        self.left_out = []
        self.measured = []  # for the JSON file
        self.reference = ROOT / "build/interop-venv/bin/model_signing"
        flags = pathlib.Path("/proc/cpuinfo").read_text()
        self.avx512 = " avx512f " in flags
        self.output.mkdir(parents=True, exist_ok=True)
        self.key = self.output / "key.pem"
        if not self.key.exists():
            checked(run([self.pavise, "keygen", "-o", self.key]), "keygen")

    # ----------------------------------------------------------------- files

    def need(self, path, size_bytes):
        """Room for a file that is not there yet, and memory to keep it cached."""
        if not path.exists():
            free = shutil.disk_usage(self.output).free
            if free < size_bytes + GIB:
                raise LeftOut(
                    f"{size_bytes / GIB:.0f} GiB of disk are needed, {free / GIB:.1f} GiB are free"
                )
        available = memory_available()  # what is cached already counts as available
        if available < size_bytes + GIB:
            raise LeftOut(
                f"{size_bytes / GIB:.0f} GiB would not stay cached: {available / GIB:.1f} GiB of "
                "memory are available"
            )

    def random_file(self, name, size_bytes):
        path = self.output / name
        if path.exists() and path.stat().st_size == size_bytes:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = random.Random(name)
        block = generator.randbytes(16 * MIB)
        with open(path, "wb") as file:
            written = 0
            while written < size_bytes:
                # A counter at the front of every piece: no two are the same.
                piece = struct.pack("<Q", written) + block[8 : min(len(block), size_bytes - written)]
                file.write(piece)
                written += len(piece)
        return path

    def model(self, gibibytes, shards=1):
        size_bytes = int(gibibytes * GIB * self.scale)
        path = self.output / f"model_{gibibytes}_{shards}"
        self.need(path, int(size_bytes * 1.06))
        checked(
            run([sys.executable, ROOT / "scripts/make_model.py", path, "--size", size_bytes,
                 "--shards", shards]),
            "make_model.py",
        )
        return path

    def sign(self, model, *options):
        signature = self.output / f"{model.name}{''.join(options)}.sig"
        result = run([self.pavise, "sign", model, "--private-key", self.key, "--signature",
                      signature, "--json", *options])
        checked(result, f"signing {model.name}")
        return signature, result

    def verify_command(self, model, signature, *options):
        return [self.pavise, "verify", model, "--public-key", self.key.with_suffix(".pub"),
                "--signature", signature, "--json", *options]

    # --------------------------------------------------------------- results

    def add(self, what, pairs, names, target, at_least, figure_of, cpu_of=None, applies=True):
        """One line of the table. `figure_of(pair)` is the ratio of one pair."""
        ratios = sorted(figure_of(pair) for pair in pairs)
        figure = statistics.median(ratios)
        passed = figure >= target if at_least else figure <= target
        verdict = ("pass" if passed else "MISS") if applies else "-"
        cpu = [
            f"{statistics.median(pair[side].cpu_s for pair in pairs):.2f} s" for side in (0, 1)
        ]
        self.rows.append(
            Row(
                what,
                f"{names[0]} {seconds([a for a, _ in pairs]):.3f} s",
                f"{names[1]} {seconds([b for _, b in pairs]):.3f} s",
                f"{figure:.3f}",
                f"{'>=' if at_least else '<='} {target}",
                verdict,
                " / ".join(cpu) if cpu_of is None else cpu_of,
                f"{ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} pairs",
            )
        )
        self.measured.append(
            {"what": what, "figure": figure, "ratios": ratios, "target": target,
             "at_least": at_least, "verdict": verdict,
             "seconds": {names[i]: [pair[i].wall_s for pair in pairs] for i in (0, 1)},
             "cpu_seconds": {names[i]: [pair[i].cpu_s for pair in pairs] for i in (0, 1)}}
        )
        print(f"  {what}: {figure:.3f} ({verdict}, {self.rows[-1].spread})", flush=True)

    # ------------------------------------------------------------ benchmarks

    def blake3(self):
        """BLAKE3 of one cached file against b3sum, with one and with two threads."""
        if shutil.which("b3sum") is None:
            raise LeftOut("b3sum is not installed")
        size_bytes = int(4 * GIB * self.scale)
        self.need(self.output / "blake3.bin", size_bytes)
        path = self.random_file("blake3.bin", size_bytes)
        read_into_cache([path])
        for threads in (1, 2):
            if threads > cpus():
                raise LeftOut(f"{threads} threads need as many CPUs")
            ours = [self.pavise, "bench", "--json", "file", path, "--algorithm", "blake3",
                    "--threads", threads]
            theirs = ["b3sum", "--num-threads", threads, "--no-names", path]
            expected = checked(run(theirs), "b3sum").output.strip()

            def run_ours(ours=ours, expected=expected):
                result = checked(run(ours), "pavise bench file")
                digest = json.loads(result.output)["files"][0]["digest"]
                if digest != expected:
                    raise WrongAnswer(f"BLAKE3 is {digest}, b3sum has {expected}")
                return result

            pairs = take_turns(run_ours, lambda theirs=theirs: checked(run(theirs), "b3sum"),
                               self.repeats)
            self.add(
                f"BLAKE3, {gib(size_bytes)} cached, {threads} thread{'s' if threads > 1 else ''}: "
                "b3sum's time / ours",
                pairs, ("pavise", "b3sum"), 0.95, True, lambda p: p[1].wall_s / p[0].wall_s,
            )

    def sha256(self):
        """SHA-256 of 16 files against OpenSSL's own speed times the CPUs."""
        size_bytes = int(128 * MIB * self.scale)
        self.need(self.output / "sha256/15.bin", 16 * size_bytes)
        paths = [self.random_file(f"sha256/{i}.bin", size_bytes) for i in range(16)]
        read_into_cache(paths)
        expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        count = cpus()

        def run_ours():
            result = checked(
                run([self.pavise, "bench", "--json", "file", *paths, "--algorithm", "sha256",
                     "--threads", count]),
                "pavise bench file",
            )
            if [file["digest"] for file in json.loads(result.output)["files"]] != expected:
                raise WrongAnswer("a SHA-256 differs from Python's")
            return result

        def openssl(*options):
            result = checked(
                run(["openssl", "speed", "-mr", "-elapsed", "-seconds", 2, "-bytes", MIB, *options,
                     "-evp", "sha256"]),
                "openssl speed",
            )
            result.rate = float(re.findall(r"^\+F:\d+:[^:]*:([0-9.]+)", result.output, re.M)[-1])
            return result

        total_bytes = 16 * size_bytes
        cpu = "-"  # openssl runs for a fixed time, so its CPU seconds compare with nothing
        self.add(
            f"SHA-256, 16 files of {size_bytes // MIB} MiB cached: our rate / (openssl's on one CPU "
            f"x {count})",
            take_turns(run_ours, openssl, self.repeats), ("pavise", "openssl speed"), 0.95, True,
            lambda p: total_bytes / p[0].wall_s / (p[1].rate * count), cpu_of=cpu,
        )
        # CPUs that share a core, or a turbo, make the product unreachable for anybody.
        self.add(
            f"the same / openssl speed -multi {count}",
            take_turns(run_ours, lambda: openssl("-multi", count), self.repeats),
            ("pavise", "openssl speed"), 0.95, True,
            lambda p: total_bytes / p[0].wall_s / p[1].rate, cpu_of=cpu, applies=False,
        )

    def verify_one(self):
        self.verify(1)

    def verify_shards(self):
        self.verify(4)

    def verify(self, shards):
        """verify against the reference tool's, and against cat to nowhere."""
        model = self.model(8, shards)
        files = sorted(path for path in model.iterdir())
        size_bytes = sum(path.stat().st_size for path in files)
        signature, _ = self.sign(model)
        read_into_cache(files)
        self.check_refusal(model, signature, sorted(model.glob("*.safetensors"))[-1])
        command = self.verify_command(model, signature)

        def run_ours():
            result = checked(run(command), "pavise verify")
            answer = json.loads(result.output)
            if not answer["ok"] or answer["partial"] or answer["bytes_checked"] != size_bytes:
                raise WrongAnswer(f"verify checked {answer['bytes_checked']} of {size_bytes} bytes")
            return result

        name = f"verify, {gib(size_bytes)} cached, " + (
            "one file" if shards == 1 else f"{shards} shards"
        )
        self.add(
            f"{name}: our time / cat's",
            take_turns(run_ours, lambda: checked(run_to_nowhere(["cat", *files]), "cat"),
                       self.repeats),
            ("pavise", "cat"), 1.6, False, lambda p: p[0].wall_s / p[1].wall_s,
            applies=self.avx512,
        )
        if not self.reference.exists():
            raise LeftOut("the reference tool is not installed (make interop)")
        theirs = [self.reference, "verify", "key", model, "--public_key",
                  self.key.with_suffix(".pub"), "--signature", signature]
        self.add(
            f"{name}: the reference tool's time / ours",
            take_turns(run_ours, lambda: checked(run(theirs), "model_signing verify"),
                       max(1, self.repeats // 2)),
            ("pavise", "model_signing"), 3.5, True, lambda p: p[1].wall_s / p[0].wall_s,
            applies=self.avx512,
        )

    def check_refusal(self, model, signature, file):
        """What is timed must be able to refuse."""
        offset = file.stat().st_size // 2
        flip = [sys.executable, ROOT / "scripts/flip_byte.py", file, offset]
        checked(run(flip), "flip_byte.py")
        try:
            result = run(self.verify_command(model, signature))
        finally:
            checked(run(flip), "flip_byte.py")
        if result.exit_code != 1:
            raise WrongAnswer(f"a flipped byte in {file.name}: exit code {result.exit_code}")

    def tensors(self):
        """verify --tensors of 1% of a model against all of it."""
        model = self.model(8)
        signature, _ = self.sign(model)
        file = model / "model.safetensors"
        read_into_cache([file])
        size_bytes = file.stat().st_size
        names, chosen_bytes = tensors_of(file, size_bytes // 100)
        options = [word for name in names for word in ("--tensors", name)]
        part = self.verify_command(model, signature, *options)
        whole = self.verify_command(model, signature)

        def run_part():
            result = checked(run(part), "verify --tensors")
            answer = json.loads(result.output)
            if not answer["partial"] or sorted(answer["tensors_checked"]) != sorted(names):
                raise WrongAnswer(f"verify --tensors checked {answer['tensors_checked']}")
            return result

        self.add(
            f"verify --tensors of {100 * chosen_bytes / size_bytes:.2f}% of {gib(size_bytes)}: its "
            "time / that of all",
            take_turns(run_part, lambda: checked(run(whole), "verify"), self.repeats),
            ("1%", "all"), 0.03, False, lambda p: p[0].wall_s / p[1].wall_s,
        )

    def sign_again(self):
        """Signing again after one changed tensor against signing for the first time."""
        model = self.model(8)
        file = model / "model.safetensors"
        size_bytes = file.stat().st_size
        name = "model.layers.3.self_attn.q_proj.weight"
        read_into_cache([file])
        first_signature = self.output / "first.sig"
        signature = self.output / "again.sig"
        base = [self.pavise, "sign", model, "--private-key", self.key, "--hash", "blake3", "--json"]
        checked(run([*base, "--signature", signature]), "the first signing")
        generator = random.Random(7)

        def first():
            first_signature.unlink(missing_ok=True)
            return checked(run([*base, "--signature", first_signature]), "the first signing")

        def again():
            # Far enough from the previous hashing for the file times to tell them apart.
            time.sleep(0.3)
            changed = change_tensor(file, name, generator)
            result = checked(
                run([*base, "--signature", signature, "--incremental", "--changed-tensors", name]),
                "signing again",
            )
            hashed = json.loads(result.output)["bytes_hashed"]
            if not changed <= hashed < size_bytes // 2:
                raise WrongAnswer(f"signing again hashed {hashed} bytes, the tensor has {changed}")
            return result

        pairs = take_turns(again, first, self.repeats)
        answer = checked(run(self.verify_command(model, signature)), "verify after signing again")
        if json.loads(answer.output)["bytes_checked"] < size_bytes:
            raise WrongAnswer("verify after signing again did not read everything")
        self.check_refusal(model, signature, file)
        self.add(
            f"signing {gib(size_bytes)} again after one changed tensor (--hash blake3 "
            "--changed-tensors): its time / the first's",
            pairs, ("again", "first"), 0.05, False, lambda p: p[0].wall_s / p[1].wall_s,
        )

    def memory(self):
        """Peak private memory of each way to read, for a small and a large model."""
        for gibibytes in (1, 8):
            model = self.model(gibibytes)
            size_bytes = (model / "model.safetensors").stat().st_size
            signature, _ = self.sign(model)
            commands = {
                "sign": [self.pavise, "sign", model, "--private-key", self.key, "--signature",
                         self.output / "memory.sig", "--json"],
                "verify": self.verify_command(model, signature),
                "verify --read-mode buffered": self.verify_command(
                    model, signature, "--read-mode", "buffered"),
                "verify --read-mode direct": self.verify_command(
                    model, signature, "--read-mode", "direct"),
            }
            for name, command in commands.items():
                result = checked(run(command, sample_memory=True), name)
                peak = result.peak_private_bytes / MIB
                verdict = "pass" if 0 < peak < 300 else "MISS"
                self.rows.append(
                    Row(f"private memory of {name}, {gib(size_bytes)}", f"pavise {result.wall_s:.2f} s",
                        "", f"{peak:.0f} MiB", "< 300 MiB", verdict, f"{result.cpu_s:.2f} s",
                        "peak of samples, one a millisecond")
                )
                self.measured.append(
                    {"what": f"private memory of {name}, {gib(size_bytes)}", "figure": peak,
                     "target": 300, "at_least": False, "verdict": verdict}
                )
                print(f"  {self.rows[-1].what}: {peak:.0f} MiB ({verdict})", flush=True)

    def appraisals(self):
        """Appraisals of each kind of evidence a second of CPU time, on one thread; they take turns.
        The program checks each verdict, and that changed evidence is refused."""
        runs = self.microbenchmarks("evidence_bench")
        missing = {"tpm-quote", "ima-log/100000", "ima-log-100-more/100000"} - runs.keys()
        if missing:
            raise WrongAnswer(f"evidence_bench did not run {', '.join(sorted(missing))}")
        for name, ones in runs.items():
            cpu_s = [one["cpu_time"] * 1e-9 for one in ones]
            wall_s = [one["real_time"] * 1e-9 for one in ones]
            self.add_rate(f"appraisals a second: {name}",
                          [one["appraisals_per_s"] for one in ones], cpu_s, wall_s)
            if name.startswith("ima-log"):
                self.add_rate(f"IMA entries a second: {name}",
                              [one["entries_per_s"] for one in ones], cpu_s, wall_s,
                              IMA_ENTRIES_PER_S)
        # The new entries only: as many cost the same, however long the log is by now.
        growth = [long["cpu_time"] / short["cpu_time"]
                  for long, short in zip(runs["ima-log-100-more/100000"],
                                         runs["ima-log-100-more/826"])]
        self.add_ratio("100 more IMA entries after 100,000: CPU time / that after 826", growth, 1.5)

    def beside(self, name):
        path = self.pavise.with_name(name)
        if not path.exists():
            raise LeftOut(f"{name} is not built beside pavise")
        return path

    def microbenchmarks(self, name):
        """Runs of a program of benchmarks that take turns in a random order, by their names."""
        report = self.output / f"{name}.json"
        checked(
            run([self.beside(name), f"--benchmark_out={report}", "--benchmark_out_format=json",
                 "--benchmark_min_time=0.2", f"--benchmark_repetitions={self.repeats}",
                 "--benchmark_enable_random_interleaving=true"]),
            name,
        )
        runs = {}
        ran = json.loads(report.read_text())["benchmarks"]
        for one in sorted(ran, key=lambda one: (one["family_index"], one["per_family_instance_index"])):
            if one.get("error_occurred"):
                raise WrongAnswer(f"{one['name']}: {one['error_message']}")
            if one["run_type"] == "iteration":
                runs.setdefault(one["name"], []).append(one)
        return runs

    def add_times(self, name, targets_us):
        """A line for each benchmark of a program: its CPU time, in microseconds at most so many."""
        for benchmark, ones in self.microbenchmarks(name).items():
            to_us = {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6}[ones[0]["time_unit"]]
            target = next((us for prefix, us in targets_us.items() if benchmark.startswith(prefix)),
                          None)
            self.add_cost(f"{name} {benchmark}, us", [one["cpu_time"] * to_us for one in ones], target)

    def decisions(self):
        """Decisions over a key's release, in memory."""
        self.add_times("policy_bench", {"BM_DecideKeyRelease": 100})

    def segments(self):
        """Sealing and opening segments of 1 MiB in memory, on one thread, against OpenSSL's own speed;
        both by CPU time, in turns."""
        program = self.beside("vault_bench")
        report = self.output / "vault_bench.json"

        def ours(benchmark):
            checked(
                run([program, f"--benchmark_filter=^{benchmark}$", "--benchmark_min_time=1",
                     f"--benchmark_out={report}", "--benchmark_out_format=json"]),
                "vault_bench",
            )
            (one,) = json.loads(report.read_text())["benchmarks"]
            if one.get("error_occurred"):
                raise WrongAnswer(f"{one['name']}: {one['error_message']}")
            return one["bytes_per_second"]

        def openssl(*options):
            result = checked(run(["openssl", "speed", "-mr", "-seconds", 1, "-bytes", MIB, *options,
                                  "-evp", "aes-256-gcm"]), "openssl speed")
            return float(re.findall(r"^\+F:\d+:[^:]*:([0-9.]+)", result.output, re.M)[-1])

        for what, benchmark, options in (("sealing", "SealSegments", []),
                                         ("opening", "OpenSegments", ["-decrypt"])):
            pairs = take_turns(lambda: ours(benchmark), lambda: openssl(*options), self.repeats)
            self.add_ratio(f"{what} segments of 1 MiB in memory: our rate / openssl speed's, "
                           "AES-256-GCM, one thread", [a / b for a, b in pairs], 0.8, at_least=True)

    def sealing(self):
        """Sealing and unsealing a cached file, from file to file, against cp: on the disk, where ours
        comes back when all is durable and cp gets a sync of its file; and where there is no disk."""
        size_bytes = int(GIB * self.scale)
        self.need(self.output / "sealing.bin", 5 * size_bytes)
        self.file_to_file(self.output, size_bytes, "then sync", ", both flushed to the disk")
        memory = pathlib.Path("/dev/shm")
        if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 5 * size_bytes:
            raise LeftOut(f"{memory} has no room for {gib(5 * size_bytes)}")
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            self.file_to_file(pathlib.Path(folder), size_bytes, "", ", in memory (tmpfs)")

    def file_to_file(self, folder, size_bytes, flush, where):
        source = self.random_file("sealing.bin", size_bytes)
        plain = folder / source.name
        if plain != source:
            shutil.copyfile(source, plain)
        sealed, opened = folder / "sealing.sealed", folder / "sealing.open"
        copy = folder / "sealing.copy"

        def seal():
            sealed.unlink(missing_ok=True)
            return checked(run([self.pavise, "seal", plain, "-o", sealed, "--recipient",
                                self.key.with_suffix(".pub")]), "seal")

        def unseal():
            shutil.rmtree(opened, ignore_errors=True)
            return checked(run([self.pavise, "unseal", sealed, "-o", opened, "--private-key",
                                self.key]), "unseal")

        def copying(path):
            copy.unlink(missing_ok=True)
            command = 'cp --reflink=never "$0" "$1"' + (' && sync "$1"' if flush else "")
            return checked(run(["sh", "-c", command, path, copy]), "cp")

        try:
            seal()
            unseal()
            checked(run(["cmp", plain, opened / plain.name]), "what was unsealed")
            flip = [sys.executable, ROOT / "scripts/flip_byte.py", sealed, size_bytes // 2]
            checked(run(flip), "flip_byte.py")
            shutil.rmtree(opened)
            if run([self.pavise, "unseal", sealed, "-o", opened, "--private-key",
                    self.key]).exit_code != 1:
                raise WrongAnswer("unseal accepts a flipped byte")
            checked(run(flip), "flip_byte.py")
            read_into_cache([plain, sealed])
            for what, ours, source in (("sealing", seal, plain), ("unsealing", unseal, sealed)):
                self.add(f"{what} {gib(size_bytes)}{where}: its time / cp's",
                         take_turns(ours, lambda: copying(source), self.repeats),
                         (what.replace("ing", ""), f"cp {flush}".strip()), 1.5, False,
                         lambda p: p[0].wall_s / p[1].wall_s)
        finally:
            for path in (sealed, copy):
                path.unlink(missing_ok=True)
            shutil.rmtree(opened, ignore_errors=True)

    def ledger(self):
        """Proofs over a ledger of 10 million entries, and a broker's start with it."""
        if shutil.disk_usage(os.environ.get("TMPDIR", "/tmp")).free < 3 * GIB:
            raise LeftOut("3 GiB of disk are needed below $TMPDIR, else /tmp")
        self.add_times("ledger_bench", {"BM_InclusionProof": 1e3, "BM_ConsistencyProof": 1e3,
                                        "BM_StartUp": 2e6})

    def key_broker(self):
        """Attest-and-release by a broker's service, each key compared; CPU time of the broker alone."""
        program = self.beside("broker_bench")
        columns = {}
        for _ in range(self.repeats):
            output = checked(run([program, 3]), "broker_bench").output
            for name, store, clients, *figures in re.findall(
                r"^\| ([\w-]+) \| (\w+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
                output, re.M,
            ):
                columns.setdefault((name, store, clients), []).append([float(f) for f in figures])
        if not columns:
            raise WrongAnswer("broker_bench printed no figures")
        for (name, store, clients), runs in columns.items():
            where = f"attest-and-release, {name}, {store}, {clients} clients"
            for column, (what, target) in enumerate((("CPU ms", 2), ("a second", None),
                                                     ("p50 ms", None), ("p99 ms", None))):
                self.add_cost(f"{where}: {what}", [figures[column] for figures in runs], target)

    def modes(self):
        """A training job in every trust mode, on noise; `bench modes` compares what they compute."""
        self.beside("pavise-train")
        report = self.output / "modes.json"
        checked(
            run([self.pavise, "-q", "bench", "modes", "--rounds", self.repeats,
                 "--report-json", report, "--plot", self.output / "modes.svg"]),
            "bench modes",
        )
        for mode in json.loads(report.read_text())["modes"]:
            what = f"training an MLP, {mode['name']}"
            if mode["why_not"] is not None:
                self.left_out.append((what, mode["why_not"]))
                continue
            for figure, ratios in (("time", mode["speed_to_tee_all"]),
                                   ("coordinator's CPU time", mode["tee_cpu_to_coordinator_cpu_all"])):
                self.add_cost(f"{what}: {figure} / that of tee", [1 / ratio for ratio in ratios])

    def add_cost(self, what, figures, at_most=None):
        """A line that has nothing beside it, of figures that are to be small."""
        figures = sorted(figures)
        figure = statistics.median(figures)
        verdict = "-" if at_most is None else "pass" if figure <= at_most else "MISS"
        self.rows.append(Row(what, "", "", f"{figure:,.2f}",
                             "" if at_most is None else f"<= {at_most:,.0f}", verdict, "",
                             f"{figures[0]:,.2f} to {figures[-1]:,.2f}, {len(figures)} runs"))
        self.measured.append({"what": what, "figure": figure, "figures": figures, "target": at_most,
                              "at_least": False, "verdict": verdict})
        print(f"  {what}: {figure:,.2f} ({verdict}, {self.rows[-1].spread})", flush=True)

    def add_rate(self, what, rates, cpu_s, wall_s, at_least=None):
        """A line of the table that has nothing beside it: a rate by CPU time."""
        def shown(rate):
            return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"

        rates = sorted(rates)
        figure = statistics.median(rates)
        verdict = "-" if at_least is None else "pass" if figure >= at_least else "MISS"
        self.rows.append(
            Row(what, f"{statistics.median(wall_s) * 1e6:,.0f} us", "", shown(figure),
                "" if at_least is None else f">= {at_least:,}", verdict,
                f"{statistics.median(cpu_s) * 1e6:,.0f} us",
                f"{shown(rates[0])} to {shown(rates[-1])}, {len(rates)} runs")
        )
        self.measured.append(
            {"what": what, "figure": figure, "rates": rates, "target": at_least, "at_least": True,
             "verdict": verdict, "seconds": {"pavise": wall_s}, "cpu_seconds": {"pavise": cpu_s}}
        )
        print(f"  {what}: {shown(figure)} ({verdict}, {self.rows[-1].spread})", flush=True)

    def add_ratio(self, what, ratios, target, at_least=False):
        """The same for a ratio of CPU times, or of rates by them, that has a target."""
        ratios = sorted(ratios)
        figure = statistics.median(ratios)
        verdict = "pass" if (figure >= target if at_least else figure <= target) else "MISS"
        self.rows.append(Row(what, "", "", f"{figure:.3f}", f"{'>=' if at_least else '<='} {target}",
                             verdict, "", f"{ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} pairs"))
        self.measured.append({"what": what, "figure": figure, "ratios": ratios, "target": target,
                              "at_least": at_least, "verdict": verdict})
        print(f"  {what}: {figure:.3f} ({verdict}, {self.rows[-1].spread})", flush=True)


def tensors_of(file, wanted_bytes):
    """Tensors, from the middle of the file on, that make up about `wanted_bytes`."""
    with open(file, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        table = json.loads(stream.read(length))
    table.pop("__metadata__", None)
    sizes = [(name, entry["data_offsets"][1] - entry["data_offsets"][0])
             for name, entry in table.items()]
    names, total = [], 0
    for start in range(len(sizes) // 2, len(sizes)):
        some, bytes_so_far = [], 0
        for name, size in sizes[start:] + sizes[:start]:
            # Up to a twentieth more, so that one tensor of about that size counts as 1%.
            if size > 0 and bytes_so_far + size <= wanted_bytes * 1.05:
                some.append(name)
                bytes_so_far += size
        if bytes_so_far > total:
            names, total = some, bytes_so_far
    if total < wanted_bytes * 0.8:
        raise LeftOut("no tensors of about 1% of the model")
    return names, total


def change_tensor(file, name, generator):
    """Writes new values into one tensor; its size."""
    with open(file, "r+b") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        begin, end = json.loads(stream.read(length))[name]["data_offsets"]
        stream.seek(8 + length + begin)
        block = generator.randbytes(min(MIB, end - begin))
        for offset in range(0, end - begin, len(block)):
            stream.write(block[: end - begin - offset])
        stream.flush()
        os.fsync(stream.fileno())
    return end - begin


def run_to_nowhere(command):
    begin = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    return Run(wall_s, usage.ru_utime + usage.ru_stime, process.returncode, "")


def read_into_cache(paths):
    checked(run_to_nowhere(["cat", *paths]), "cat")


def memory_available():
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M)[1]) * 1024


def cpus():
    return len(os.sched_getaffinity(0))


def gib(size_bytes):
    return f"{size_bytes / GIB:.1f} GiB"


def hardware():
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.M)
    flags = re.search(r"^flags\s*: (.*)$", cpuinfo, re.M)
    present = set(flags[1].split()) if flags else set()
    shown = [flag for flag in ("avx512f", "avx512vl", "avx2", "sha_ni") if flag in present]
    total = re.search(r"^MemTotal:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text(), re.M)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": cpus(),
        "flags": shown,
        "memory_gib": round(int(total[1]) / MIB, 1),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def first_line(command):
    try:
        lines = run(command).output.strip().splitlines()
    except OSError:
        return "not installed"
    return lines[0] if lines else ""


def render(machine, versions, rows, left_out):
    lines = [
        f"Machine: {machine['cpu']}, {machine['cpus']} CPUs ({', '.join(machine['flags'])}), "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}; load before: "
        f"{machine['load_before']:.1f}; {machine['date']}.",
        "",
        "Programs: " + "; ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "",
        "| figure | value | target | | ours | other | CPU seconds, ours / other | spread |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.what} | {row.figure} | {row.target} | {row.verdict} | {row.ours} | "
            f"{row.theirs} | {row.cpu} | {row.spread} |"
        )
    for what, reason in left_out:
        lines.append(f"| {what} | left out: {reason} | | SKIP | | | | |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pavise", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--strict", action="store_true")
    arguments = parser.parse_args()
    if arguments.repeats < 1 or not 0 < arguments.scale <= 4:
        parser.error("--repeats is at least 1, --scale above 0 and at most 4")

    machine = hardware()
    bench = Bench(arguments)
    if arguments.scale != 1:
        print(f"bench: files at {arguments.scale} of their size: these figures prove nothing")
    if machine["load_before"] > 0.5:
        print(f"bench: the machine is busy (load {machine['load_before']:.1f}): figures will vary")
    wrong = 0
    for name in ("blake3", "sha256", "appraisals", "decisions", "key_broker", "ledger", "segments",
                 "sealing", "modes", "verify_one", "tensors", "memory", "sign_again",
                 "verify_shards"):
        if arguments.only not in name:
            continue
        function = getattr(bench, name)
        print(f"bench: {name.replace('_', ' ')}", flush=True)
        try:
            function()
        except LeftOut as reason:
            bench.left_out.append((name.replace("_", " "), str(reason)))
            print(f"  SKIP: {reason}", flush=True)
        except WrongAnswer as answer:
            wrong += 1
            bench.left_out.append((name.replace("_", " "), f"WRONG ANSWER: {answer}"))
            print(f"  WRONG ANSWER: {answer}", flush=True)

    versions = {
        "pavise": first_line([bench.pavise, "--version"]),
        "b3sum": first_line(["b3sum", "--version"]),
        "openssl": first_line(["openssl", "version"]),
        "reference": first_line([bench.reference, "--version"]) if bench.reference.exists() else
        "not installed",
    }
    text = render(machine, versions, bench.rows, bench.left_out)
    (bench.output / "results.md").write_text(text)
    (bench.output / "results.json").write_text(
        json.dumps({"machine": machine, "versions": versions, "scale": arguments.scale,
                    "results": bench.measured, "left_out": bench.left_out}, indent=2) + "\n"
    )
    print()
    print(text, end="")
    print(f"\nwritten to {bench.output}/results.md and results.json")
    missed = sum(row.verdict == "MISS" for row in bench.rows)
    if wrong or not bench.rows or (arguments.strict and missed):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
