#!/usr/bin/env python3
"""The whole story on this machine: three owners, a broker, an attested host, three workers, and four attacks.

Usage: demo_story.py [--data PATH] [--programs DIR] [--work DIR]
  --data PATH      PneumoniaMNIST (the .npz file, or a folder with it); else $PAVISE_DATA, else ../shared/data
                   beside the project, else (and with the word "synthetic") images that are made up here, and
                   called so
  --programs DIR   pavise, pavise-all, pavise-train, pavise-worker and lying_worker [build/release/bin]
  --work DIR       everything that is written [build/demo]; what an earlier demo left there is removed

Everything listens on loopback, and ends with this program. Software stands in for hardware: a TPM, and
firmware and kernel, which measure the host's programs into it (make measured-boot has real ones of
these, in QEMU). Exit 0: everything that should hold held, and everything that should be refused was, for
the expected reason. 1: not so. 2: wrong usage. 77: something is not installed.
"""

import argparse
import ctypes
import hashlib
import html
import io
import json
import os
import pathlib
import random
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
OWNERS = {"vendor": ("recipe", "code"), "lab": ("base", "model"), "clinic": ("scans", "data")}
OPERATORS = ("north", "east", "west")
SCHEME = "shared"
EPOCHS = 3
IMA_REGISTER = 10
# After so many honest answers the worker lies.
HONEST_ANSWERS = 60
LONGEST_STEP_SECONDS = 280
MARK = ".pavise-demo"
DIGEST = re.compile("[0-9a-f]{64}")


class Failed(Exception):
    """Something that should hold did not."""


class Missing(Exception):
    """A program that Debian packages bring."""


# ---- What is shown ---------------------------------------------------------------------------


class Screen:
    """Standard output, and the log, which has every command and all that it printed."""

    def __init__(self, work):
        self.work = work
        self.log_path = log = work / "log.txt"
        self.log = open(log, "w", encoding="utf-8", errors="replace")
        self.begin = time.monotonic()
        self.chapter = "the beginning"
        is_terminal = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        has_colors = is_terminal and os.environ.get("TERM", "dumb") != "dumb"
        self.bold, self.green, self.red, self.dim, self.plain = (
            ("\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m") if has_colors else [""] * 5
        )
        self.width = min(100, shutil.get_terminal_size((100, 24)).columns) if is_terminal else 100

    def line(self, text="", color=""):
        self.note(text)
        print(f"{color}{text}{self.plain if color else ''}", flush=True)

    def brief(self, text):
        """Without what repeats; the log has all of it."""
        return DIGEST.sub(lambda digest: digest[0][:16] + "...", text.replace(f"{self.work}/", ""))

    def wrap(self, text, indent, width=0):
        return textwrap.wrap(self.brief(text), width or self.width - 4, subsequent_indent=indent, break_on_hyphens=False,
                             break_long_words=False)  # fmt: skip

    def note(self, text):
        self.log.write(text + "\n")
        self.log.flush()

    def seconds(self):
        return int(time.monotonic() - self.begin)

    def begin_chapter(self, title):
        self.chapter = title
        clock = f"{self.seconds() // 60}:{self.seconds() % 60:02d}"
        self.line()
        self.line(f"{title}{clock:>{max(1, self.width - len(title))}}", self.bold)

    def say(self, text, indent="  ", color=""):
        for line in self.wrap(text, ""):
            self.line(indent + line, color)

    def cut(self, text):
        text = self.brief(text)
        self.line(text if len(text) <= self.width else text[: self.width - 3] + "...")

    def rows(self, label, values):
        """Values of one kind, the first beside the label."""
        for value in values:
            for line in self.wrap(value, "", self.width - 14):
                self.line(f"    {label:<9} {line}")
                label = ""

    def good(self, text):
        self.say(text, color=self.green)

    def refused(self, finding):
        self.line(f"    REFUSED   {finding['reason']}", self.red)
        self.rows("what", [finding["item"]])
        self.rows("why", [finding["detail"]])
        if finding.get("remedy"):
            self.rows("remedy", [finding["remedy"]])


# ---- Processes -------------------------------------------------------------------------------


def end_with_parent():
    """In a new process: it ends where this one is killed."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


class Processes:
    """Those that run beside the story. Each is ended by its id."""

    def __init__(self, logs):
        self.logs = logs
        self.running = {}

    def start(self, name, words, ready=lambda: True):
        """Returns when it is ready, as `ready` says."""
        log = open(self.logs / f"{name}.log", "ab")
        process = subprocess.Popen(list(map(str, words)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True, preexec_fn=end_with_parent)  # fmt: skip
        log.close()
        self.running[name] = process
        for _ in range(1200):
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode}: {self.logs / name}.log")
            if ready():
                return
            time.sleep(0.05)
        raise Failed(f"{name} does not answer: {self.logs / name}.log")

    def stop(self, name):
        process = self.running.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self):
        for name in reversed(list(self.running)):
            self.stop(name)


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def need(program, package):
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise Missing(f"{program} is not installed (apt-get install {package}, or scripts/bootstrap.sh test)")
    return found


# ---- Data ------------------------------------------------------------------------------------


def find_data(given):
    """The file; None where there is none and none was asked for."""
    if given == "synthetic":
        return None
    for place, name in ((given, "--data"), (os.environ.get("PAVISE_DATA"), "$PAVISE_DATA")):
        if not place:
            continue
        path = pathlib.Path(place)
        for candidate in (path, path / "pneumoniamnist.npz", path / "pneumoniamnist/pneumoniamnist.npz"):
            if candidate.is_file() and candidate.suffix == ".npz":
                return candidate.resolve()
        raise Failed(f"{name} {place}: no .npz file there, nor pneumoniamnist.npz in it")
    path = ROOT / "../shared/data/pneumoniamnist/pneumoniamnist.npz"
    return path.resolve() if path.is_file() else None


def write_npz(path, seed, train, test):
    """Images that are made up: a bright blob, in class 1 a second one beside it."""
    noise = random.Random(seed)

    def images(count):
        pixels, labels = bytearray(), bytearray()
        for _ in range(count):
            label = noise.randrange(2)
            image = bytearray(noise.choices(range(60), k=28 * 28))
            for blob in range(1 + label):
                row, column = noise.randrange(4, 20), noise.randrange(2, 9) + 13 * blob
                for y in range(row, row + 6):
                    for x in range(column, column + 5):
                        image[28 * y + x] = noise.randrange(140, 256)
            pixels += image
            labels.append(label)
        return bytes(pixels), bytes(labels)

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for split, count in (("train", train), ("val", 16), ("test", test)):
            pixels, labels = images(count)
            for name, shape, content in (("images", (count, 28, 28), pixels), ("labels", (count, 1), labels)):
                text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
                text += b" " * (-(len(text) + 11) % 64) + b"\n"
                array = io.BytesIO()
                array.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)
                archive.writestr(f"{split}_{name}.npy", array.getvalue())


# ---- The host --------------------------------------------------------------------------------


class SoftwareTpm:
    """swtpm on a socket."""

    def __init__(self, name, state, sockets, processes):
        self.name, self.state, self.processes = name, state.resolve(), processes
        self.path = sockets / f"{name}.tpm"
        self.tcti = f"swtpm:path={self.path}"
        self.state.mkdir(parents=True)
        subprocess.run([need("swtpm_setup", "swtpm-tools"), "--tpm2", "--tpm-state", self.state, "--pcr-banks",
                        "sha256", "--overwrite"], check=True, stdin=subprocess.DEVNULL,
                       stdout=open(processes.logs / f"{name}-tpm-setup.log", "wb"), stderr=subprocess.STDOUT)  # fmt: skip

    def power_on(self):
        """As after a reset: all registers as they begin."""
        self.processes.stop(f"{self.name}-tpm")
        self.path.unlink(missing_ok=True)
        self.processes.start(
            f"{self.name}-tpm",
            [need("swtpm", "swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={self.state}", "--server",
             f"type=unixio,path={self.path}", "--ctrl", f"type=unixio,path={self.path}.ctrl", "--flags",
             "not-need-init,startup-clear"], ready=self.path.exists)  # fmt: skip

    def extend(self, register, sha256):
        subprocess.run([need("tpm2_pcrextend", "tpm2-tools"), "--tcti", self.tcti, f"{register}:sha256={sha256.hex()}"],
                       check=True, stdin=subprocess.DEVNULL, capture_output=True)  # fmt: skip


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def ima_entry(name, digest):
    """Of the kernel's measurement log (template ima-ng), and what it extends the register with."""
    fields = [b"sha256:\0" + digest, os.fsencode(name) + b"\0"]
    data = b"".join(struct.pack("<I", len(field)) + field for field in fields)
    head = struct.pack("<I", IMA_REGISTER) + hashlib.sha1(data).digest() + struct.pack("<I", 6) + b"ima-ng"
    return head + struct.pack("<I", len(data)) + data, hashlib.sha256(data).digest()


class Host:
    """A machine with a TPM, and its programs. It starts as a machine with IMA starts: what is to run is
    measured into the TPM before it runs, and listed."""

    def __init__(self, folder, programs, sockets, processes):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.ima_log = folder / "ima.log"
        for name in ("pavise", "pavise-all", "pavise-train"):
            shutil.copyfile(programs / name, self.bin / name)
            (self.bin / name).chmod(0o755)
        self.programs = [*sorted(self.bin.iterdir()), pathlib.Path(need("bwrap", "bubblewrap"))]
        self.tpm = SoftwareTpm("host", folder / "tpm", sockets, processes)

    def boot(self):
        self.tpm.power_on()
        # The firmware of this machine measured nothing: registers 0 to 9 are zeros.
        entries = [("boot_aggregate", hashlib.sha256(bytes(32 * 10)).digest())]
        entries += [(path, sha256_of(path)) for path in self.programs]
        log = b""
        for name, digest in entries:
            entry, extended = ima_entry(name, digest)
            log += entry
            self.tpm.extend(IMA_REGISTER, extended)
        self.ima_log.write_bytes(log)

    def reference_values(self):
        return {"pavise_reference_values": 1, "files": [
            {"path": str(path), "digest": f"sha256:{sha256_of(path).hex()}", "source": "the build"}
            for path in self.programs]}  # fmt: skip


# ---- The story -------------------------------------------------------------------------------


class Story:
    def __init__(self, programs, work, screen, processes, sockets):
        self.programs, self.work, self.screen = programs, work, screen
        self.processes, self.sockets = processes, sockets
        self.at = []  # how the broker is called, once it is there
        self.refusals = []

    # -- pavise --

    def shown(self, words):
        short = [str(word) for word in words if word not in self.at]
        short += ["$AT"] if len(short) < len(words) else []
        text = " ".join(f"'{word}'" if re.search(r"[\s*]", word) else word for word in short)
        self.screen.line("  " + " \\\n  ".join(self.screen.wrap(f"$ pavise {text}", "    ")), self.screen.dim)

    def pavise(self, *words, expect=0, show=True, program=None):
        """What it answers, as JSON."""
        words = list(map(str, words))
        if show:
            self.shown(words)
        end = words.index("--") if "--" in words else len(words)
        done = subprocess.run([program or self.programs / "pavise", *words[:end], "--json", *words[end:]], cwd=self.work,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=LONGEST_STEP_SECONDS, check=False)  # fmt: skip
        self.screen.note(f"$ pavise {' '.join(words)}\n{done.stdout}{done.stderr}exit code {done.returncode}\n")
        if done.returncode != expect:
            raise Failed(f"pavise {' '.join(words[:2])} ended with {done.returncode}, not {expect}:\n"
                         f"{done.stdout[-3000:]}{done.stderr[-2000:]}")  # fmt: skip
        return json.loads(done.stdout)

    def refuse(self, what, reason, *words, item="", program=None, show=True):
        """It must be refused for that reason (of several, separated by spaces, one), of that item."""
        answer = self.pavise(*words, expect=1, program=program, show=show)
        for finding in answer["findings"]:
            if finding["reason"] == reason and item in finding["item"] + finding["detail"]:
                self.refusals.append({"tamper": what, **finding})
                self.screen.refused(finding)
                return answer
        found = [(finding["reason"], finding["item"]) for finding in answer["findings"]]
        raise Failed(f"{what}: refused, but not as {reason} of {item or 'anything'}: {found}")

    def stream(self, *words, program=None, expect=0, steps=True):
        """As pavise shows it to people, while it goes on; without steps only how it ends."""
        words = list(map(str, words))
        self.shown(words)
        self.screen.note(f"$ pavise {' '.join(words)}")
        process = subprocess.Popen([program or self.programs / "pavise", *words], cwd=self.work,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   preexec_fn=end_with_parent)  # fmt: skip
        said = [time.monotonic()]
        ended = threading.Event()

        def go_on():
            begin = said[0]
            while not ended.wait(1):
                if time.monotonic() - said[0] >= 10:
                    said[0] = time.monotonic()
                    self.screen.line(f"    ... {said[0] - begin:.0f} s", self.screen.dim)
                if time.monotonic() - begin > LONGEST_STEP_SECONDS:
                    process.kill()

        watch = threading.Thread(target=go_on, daemon=True)
        watch.start()
        lines = []
        try:
            for line in process.stdout:
                said[0] = time.monotonic()
                lines.append(line)
                self.screen.note(line.rstrip())
                if not line.startswith(" "):
                    self.screen.say(line.rstrip(), "    ")
                elif steps:  # a table's line, of which the log has all
                    self.screen.cut(f"    {line.rstrip()}")
            code = process.wait()
        finally:
            ended.set()
            watch.join()
            if process.poll() is None:
                process.kill()
                process.wait()
        if code != expect:
            raise Failed(f"pavise {' '.join(words[:2])} ended with {code}, not {expect}:\n{''.join(lines[-20:])}")
        return "".join(lines)

    def call(self, owner, *words, **more):
        """What an owner asks of the broker."""
        return self.pavise(*words, "--private-key", f"{owner}/{owner}.pem", *self.at, **more)

    # -- 1 --

    def make_owners(self):
        self.screen.begin_chapter("1. Three owners, who trust nobody but themselves")
        for owner, what in (("vendor", "owns the code"), ("lab", "owns a model"), ("clinic", "owns scans of patients")):
            (self.work / owner).mkdir()
            key = self.pavise("keygen", "-o", f"{owner}/{owner}.pem", show=False)
            self.pavise("keygen", "-o", f"{owner}/{owner}-enc.pem", show=False)
            self.screen.say(f"{owner:<7} {what}; signs with key {key['key_sha256'][:16]}...")

    # -- 2 --

    def certificate(self, folder, name, authority=None, usage=None):
        folder.mkdir(exist_ok=True)
        openssl = need("openssl", "openssl")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", folder / f"{name}.key"]
        if authority is None:
            subprocess.run([openssl, "req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}", "-addext",
                            "keyUsage=critical,keyCertSign", "-out", folder / f"{name}.pem"],
                           check=True, capture_output=True)  # fmt: skip
            return
        request = folder / f"{name}.csr"
        extensions = folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nkeyUsage=critical,digitalSignature\n"
                              f"extendedKeyUsage={usage}\n")  # fmt: skip
        subprocess.run([openssl, "req", *key, "-subj", f"/CN={name}", "-out", request], check=True, capture_output=True)
        subprocess.run([openssl, "x509", "-req", "-in", request, "-CA", f"{authority}.pem", "-CAkey",
                        f"{authority}.key", "-days", "2", "-out", folder / f"{name}.pem", "-extfile", extensions],
                       check=True, capture_output=True)  # fmt: skip
        request.unlink()
        extensions.unlink()

    def attestation_key(self, name, *more):
        """The name of that machine's attestation key, as owners enrol it."""
        folder = self.work / "enrolment"
        folder.mkdir(exist_ok=True)
        nonce = secrets.token_hex(32)
        self.pavise("keygen", "-o", folder / "session.pem", "--force", show=False)
        self.pavise("attest", *more, "--nonce", nonce, "--session-key", folder / "session.pub", "-o",
                    folder / f"{name}.cbor", show=False)  # fmt: skip
        policy = folder / "policy.json"
        policy.write_text(json.dumps({"pavise_appraisal_policy": 1, "required": ["tpm"], "tpm": {
            "allow_unbound_key": True, "event_log": False, "ima": False, "host_protections": False}}))  # fmt: skip
        result = self.pavise("appraise", "evidence", folder / f"{name}.cbor", "--policy", policy, "--nonce", nonce,
                             show=False)  # fmt: skip
        return result["result"]["submods"]["tpm"]["ear_attester_claims"]["attestation_key"]

    def start_machines(self):
        self.screen.begin_chapter("2. Machines that nobody fully trusts: a broker, a host, three workers")
        broker_port, *worker_ports = free_ports(1 + len(OPERATORS))
        self.start_broker(broker_port)
        self.start_host()
        folder = self.work / "workers"
        self.certificate(folder, "coordinators")
        self.certificate(self.work / "host", "host", folder / "coordinators", "clientAuth")
        self.certificate(folder, "workers")
        shutil.copyfile(folder / "workers.pem", self.work / "host/workers.pem")
        self.workers = {}
        for operator, port in zip(OPERATORS, worker_ports):
            self.certificate(folder, operator, folder / "workers", "serverAuth")
            self.workers[operator] = port
            self.start_worker(operator)
        self.screen.say(
            f"workers of {', '.join(OPERATORS)}: pavise-worker, mutual TLS; they multiply what they cannot read"
        )

    def start_broker(self, port):
        folder = self.work / "broker"
        self.certificate(folder, "authority")
        self.certificate(folder, "tls", folder / "authority", "serverAuth")
        tpm = SoftwareTpm("broker", folder / "tpm", self.sockets, self.processes)
        tpm.power_on()
        (folder / "broker.json").write_text(json.dumps({
            "pavise_broker": 1, "name": "broker.example/demo", "listen": f"127.0.0.1:{port}", "metrics": "",
            "certificate": str(folder / "tls.pem"), "private_key": str(folder / "tls.key"),
            "sqlite": str(folder / "broker.db"), "root_key": str(folder / "root_key.json"),
            "tpm": tpm.tcti, "attest": True, "attest_logs": False}, indent=1))  # fmt: skip
        self.pavise("broker", "init", "--config", "broker/broker.json", show=False)
        self.processes.start("broker", [self.programs / "pavise", "broker", "serve", "--config", folder / "broker.json"],
                             ready=lambda: answers(port))  # fmt: skip
        self.url = f"https://127.0.0.1:{port}"
        self.at = ["--broker", self.url, "--broker-ca", "broker/authority.pem"]
        key = self.attestation_key("broker", "--tcti", tpm.tcti, "--no-event-log", "--no-ima-log")
        (self.work / "broker-policy.json").write_text(json.dumps({
            "pavise_appraisal_policy": 1, "required": ["tpm"],
            "tpm": {"attestation_keys": [key], "event_log": False, "ima": False, "host_protections": False}}))  # fmt: skip
        # What owners know of it from elsewhere, and believe nothing without.
        (self.work / "trust").mkdir()
        self.pavise("broker", "status", *self.at, "--signing-key-out", "trust/broker.pub", "--ledger-key-out",
                    "trust/broker.vkey", show=False)  # fmt: skip
        self.screen.say(f"broker  SQLite, TLS; its own TPM (swtpm) attests it to the owners; AT='{' '.join(self.at)}'")

    def start_host(self):
        self.host = Host(self.work / "host", self.programs, self.sockets, self.processes)
        self.host.boot()
        key = self.attestation_key(
            "host", "--tcti", self.host.tpm.tcti, "--no-event-log", "--ima-log", self.host.ima_log
        )
        rules = self.work / "rules"
        rules.mkdir()
        (rules / "reference.json").write_text(json.dumps(self.host.reference_values(), indent=1))
        (rules / "policy.json").write_text(json.dumps({
            "pavise_appraisal_policy": 1, "required": ["tpm"], "reference_values": ["reference.json"],
            "tpm": {"attestation_keys": [key], "event_log": False, "host_protections": False}}))  # fmt: skip
        self.screen.say(f"host    TPM (swtpm) with key {key[:16]}...; {len(self.host.programs)} programs measured before they run: "
                        f"{', '.join(path.name for path in self.host.programs)}")  # fmt: skip
        self.screen.say("(A demo: this script plays firmware and kernel, which fill that TPM. make measured-boot boots real ones.)",
                        color=self.screen.dim)  # fmt: skip

    def start_worker(self, operator, lies=False):
        folder, port = self.work / "workers", self.workers[operator]
        words = [folder / f"{operator}.pem", folder / f"{operator}.key", folder / "coordinators.pem"]
        if lies:
            words = [self.programs / "lying_worker", f"127.0.0.1:{port}", *words, HONEST_ANSWERS]
        else:
            words = [self.programs / "pavise-worker", "--listen", f"127.0.0.1:{port}", "--name", operator, "--threads", "1",
                     "--memory", "1GiB", "--cert", words[0], "--key", words[1], "--client-ca", words[2]]  # fmt: skip
        self.processes.start(f"worker-{operator}", words, ready=lambda: answers(port))

    # -- 3 --

    def seal_assets(self, data):
        self.screen.begin_chapter("3. Each owner signs and seals what is theirs")
        recipe = self.work / "vendor/recipe"
        recipe.mkdir()
        (recipe / "train").write_text("#!/bin/sh\n# The host's trainer, which the owners' rules name by its digest.\n"
                                      f"exec '{self.host.bin}/pavise-train' \"$@\"\n")  # fmt: skip
        (recipe / "train").chmod(0o755)
        scans = self.work / "clinic/scans"
        scans.mkdir()
        if data is None:
            write_npz(scans / "scans.npz", 1, 2000, 400)
            self.screen.say("SYNTHETIC DATA: without PneumoniaMNIST (make demo DATA=PATH) the scans are images that "
                            "this script made up. Accuracies below mean nothing.", color=self.screen.bold)  # fmt: skip
        else:
            shutil.copyfile(data, scans / "scans.npz")
            self.screen.say(f"the clinic's scans: {data}")
        # The lab's model was trained on something else.
        write_npz(self.work / "lab/public.npz", 2, 512, 64)
        self.pavise("train", "--data", "lab/public.npz", "--output", "lab/pretraining", "--network", "mlp", "--epochs", "2",
                    "--batch-size", "64", "--threads", "1", "--no-signature")  # fmt: skip
        shutil.copytree(self.work / "lab/pretraining/model", self.work / "lab/base")
        self.screen.say(
            "the lab's model: mlp, trained on public (here: made-up) images, to be tuned on the clinic's scans"
        )
        (self.work / "shelf").mkdir()
        self.sealed = {}
        for owner, (asset, kind) in OWNERS.items():
            signature = f"{owner}/{asset}.sig"
            self.pavise("sign", f"{owner}/{asset}", "--private-key", f"{owner}/{owner}.pem", "--signature", signature,
                        show=owner == "clinic")  # fmt: skip
            result = self.pavise("seal", f"{owner}/{asset}", "-o", f"shelf/{asset}.sealed", "--signature", signature,
                                 "--recipient", f"{owner}/{owner}-enc.pub", show=owner == "clinic")  # fmt: skip
            self.sealed[asset] = result["asset_id"]
            size = (self.work / f"shelf/{asset}.sealed").stat().st_size
            self.screen.say(f"{kind:<5} {asset:<6} of {owner:<6}  sealed, {size:>9,} bytes, asset {result['asset_id']}")

    # -- 4 --

    def worker_list(self):
        return ",".join(f"localhost:{port}={operator}" for operator, port in self.workers.items())

    def agreement_text(self, epochs):
        """Version 1, and with fewer epochs version 2."""
        command = ["/pavise/assets/recipe/train", "train", "--data", "/pavise/assets/scans/scans.npz", "--output",
                   "/pavise/outputs/tuned", "--no-signature", "--discard-checkpoint", "--base", "/pavise/assets/base",
                   "--network", "mlp", "--epochs", epochs, "--batch-size", "128", "--threads", "1", "--mode",
                   "obfuscated", "--scheme", SCHEME, "--workers", self.worker_list(), "--worker-ca", "*", "--cert", "*",
                   "--key", "*"]  # fmt: skip
        lines = ["name: Pneumonia in chest X-rays", "stakeholders:"]
        lines += [f"  {owner}: {{signing_key: {owner}/{owner}.pub, encryption_key: {owner}/{owner}-enc.pub}}"
                  for owner in OWNERS]  # fmt: skip
        lines += [f"changes: {{approvals: 3, of: [{', '.join(OWNERS)}]}}", "assets:"]
        lines += [f"  {asset}: {{kind: {kind}, owner: {owner}, signature: {owner}/{asset}.sig, sealed: {self.sealed[asset]}}}"
                  for owner, (asset, kind) in OWNERS.items()]  # fmt: skip
        lines += ["stages:", "  train:", "    purpose: a pneumonia model for the lab", "    modes:",
                  "      measured: {policy: rules/policy.json}", "    code: recipe",
                  f"    command: {json.dumps(command)}", "    inputs: [base, scans]", "    outputs:",
                  "      tuned: {recipients: [lab], approvals: [clinic]}",
                  "      log: {recipients: [lab], approvals: [clinic]}",
                  f"    network: {json.dumps([f'localhost:{port}' for port in self.workers.values()])}",
                  "    limits: {not_after: 2099-01-01T00:00:00Z, runs: 6}", "    reattest_seconds: 600",
                  "    broker_grace_seconds: 60", "    findings_to_host: true"]  # fmt: skip
        return "\n".join(lines) + "\n"

    def vote(self, proposal, version):
        for owner in OWNERS:
            answer = self.call(owner, "policy", "approve", proposal, "--agreement", self.agreement,
                               show=owner == "clinic")["broker"]  # fmt: skip
        if answer["missing"]:
            raise Failed(f"all approved version {version}, and the broker misses {answer['missing']}")
        self.screen.good(f"version {version} is in force: approved by {len(OWNERS)} of {len(OWNERS)}")

    def agree(self):
        self.screen.begin_chapter("4. One agreement, which all three approve")
        (self.work / "agreement.yaml").write_text(self.agreement_text("*"))
        for warning in self.pavise("policy", "lint", "agreement.yaml").get("warnings", []):
            self.screen.rows("warning", [warning if isinstance(warning, str) else warning.get("detail", str(warning))])
        self.screen.say("(Both are so here: nothing is booted, this script plays it.)", color=self.screen.dim)
        self.agreement = self.call("vendor", "policy", "propose", "agreement.yaml", "-o", "proposal.json")["digest"]
        self.screen.say("The machine: the host's TPM key and programs, by digest. Who multiplies: three workers that see no secret as "
                        "long as no two collude. Who gets the model: the lab, when the clinic lets it go.")  # fmt: skip
        self.vote("proposal.json", 1)
        for owner, (asset, _) in OWNERS.items():
            self.call(owner, "broker", "deposit", f"shelf/{asset}.sealed", "--agreement", self.agreement, "--asset", asset,
                      "--encryption-key", f"{owner}/{owner}-enc.pem", "--policy", "broker-policy.json",
                      show=owner == "clinic")  # fmt: skip
        self.screen.say("Each owner appraised the broker's TPM evidence, and gave it the key of their asset.")

    # -- 5, 6 --

    def write_job(self, name, output, scans="../shelf/scans.sealed", received="received", epochs=EPOCHS):
        """What the host's operator writes."""
        workers = "".join(f"  - {{address: \"localhost:{port}\", operator: {operator}}}\n"
                          for operator, port in self.workers.items())  # fmt: skip
        path = self.work / "host" / name
        path.write_text(f"""agreement: {received}
stage: train
mode: obfuscated
scheme: {SCHEME}
workers:
{workers}worker_tls: {{authority: workers.pem, certificate: host.pem, key: host.key}}
broker: {{url: "{self.url}", authority: ../broker/authority.pem}}
assets: {{recipe: ../shelf/recipe.sealed, base: ../shelf/base.sealed, scans: {scans}}}
outputs: {{tuned: [lab], log: [lab]}}
train:
  program: /pavise/assets/recipe/train
  data: scans
  data_file: scans.npz
  base: base
  output: tuned
  network: mlp
  epochs: {epochs}
  batch_size: 128
  threads: 1
containment: {{memory_mib: 8192, storage_mib: 512, accept: [memory-limit, swap], read_only: [bin]}}
evidence: {{tcti: "{self.host.tpm.tcti}", no_event_log: true, ima_log: ima.log}}
output: {output}
ledger_reader: ../lab/lab.pem
""")  # fmt: skip
        return f"host/{name}"

    def plan(self):
        self.screen.begin_chapter("5. The host's plan: what would be trusted, leaked and spent; no key moves")
        self.call("lab", "policy", "show", "--agreement", self.agreement, "-o", "host/received", show=False)
        self.job = self.write_job("job.yaml", "out")
        plan = self.pavise("job", "plan", self.job, program=self.host.bin / "pavise")
        self.command = plan["command"]
        for part in ("trusted", "leaks", "checked", "cost"):
            self.screen.rows(part, plan[part])

    def run(self):
        self.screen.begin_chapter(
            "6. The run: attest, get keys, unseal into memory, train with the workers, seal, sign"
        )
        self.stream("job", "run", self.job, program=self.host.bin / "pavise")
        self.run_id = self.pavise("job", "status", self.job, show=False)["run"]

    # -- 7 --

    def fetch(self, run, sealed, name, folder):
        """The lab's, where the clinic approved it."""
        of_run = ["--agreement", self.agreement, "--run", run, "--name", name]
        show = name == "tuned"
        self.call("clinic", "policy", "approve-output", *of_run, "--recipient", "lab", show=show)
        self.call("lab", "broker", "fetch-output", sealed, *of_run, "--encryption-key",
                  "lab/lab-enc.pem", "-o", folder, show=show)  # fmt: skip

    def trust(self):
        return ["--agreement", self.agreement, "--broker-key", "trust/broker.pub", "--log-key", "trust/broker.vkey"]

    def offline(self, *words, **more):
        """In a network of its own, which reaches nothing."""
        wrapper = self.work / "offline"
        wrapper.write_text(
            f"#!/bin/sh\nexec '{need('bwrap', 'bubblewrap')}' --dev-bind / / --unshare-net '{self.programs}/pavise' \"$@\"\n"
        )
        wrapper.chmod(0o755)
        return self.pavise(*words, program=wrapper, **more)

    def receive(self):
        self.screen.begin_chapter("7. The lab receives the model, and checks all of it without a network")
        result = "host/out/result"
        self.fetch(self.run_id, f"{result}/outputs/tuned.sealed", "tuned", "lab/tuned")
        self.fetch(self.run_id, f"{result}/outputs/log.sealed", "log", "lab/log")
        verified = self.offline("job", "verify", result, *self.trust())
        self.screen.rows("run", [verified["run"]])
        self.screen.rows(
            "approved",
            [
                f"{step['kind']} {step['stakeholder']}, ledger entry {step['ledger_index']}"
                for step in verified["approvals"]
            ],
        )
        self.screen.rows("inputs", [f"{each['name']}, asset {each['asset_id'][:16]}..." for each in verified["inputs"]])
        self.screen.rows("evidence", [verified["evidence"]])
        last = [json.loads(line) for line in (self.work / "lab/tuned/metrics.jsonl").read_text().splitlines()][-1]
        self.screen.good(f"The model holds: {last['epoch']} epochs, test accuracy {100 * last['test_accuracy']:.1f} %; signatures, "
                         "approvals, evidence, ledger and digests were checked offline")  # fmt: skip
        self.pavise("sign", "lab/tuned/model", "--private-key", "lab/lab.pem", "--signature", "lab/tuned.sig", "--model-name",
                    "pneumonia")  # fmt: skip
        self.pavise("verify", "lab/tuned/model", "--public-key", "lab/lab.pub", "--signature", "lab/tuned.sig")
        self.screen.say("Where it came from says the run's statement, signed by the attested session key. To whoever "
                        "loads the model the lab vouches for it, as OpenSSF Model Signing has it.")  # fmt: skip

    # -- 8 --

    def audit(self):
        self.screen.begin_chapter("8. Audit: what a worker saw of this model, attacked")
        self.stream("audit", "--scheme", SCHEME, "--network", "mlp", "--model", "lab/tuned/model", "--base", "lab/base", "--data",
                    "clinic/scans/scans.npz", "--batch-size", "16", "--layers", "1", "--threads", "1", "--report-json",
                    "audit.json", steps=False)  # fmt: skip
        audit = json.loads((self.work / "audit.json").read_text())
        attacks = [attack for attack in audit["attacks"] if attack["verdict"] != "not run"]
        self.screen.line(f"      {'attack':<36}  {'share':>6}  {'chance':>6}  {'bare':>6}  verdict", self.screen.bold)
        for attack in sorted(attacks, key=lambda each: each["verdict"] == "held"):
            shares = "  ".join(f"{100 * attack[name]:5.1f}%" for name in ("share", "chance", "unprotected"))
            self.screen.line(f"      {attack['attack']:<36}  {shares}  {attack['verdict']}")
        self.screen.say("share: what the attack got; chance: by the same attack on noise; bare: of the run without a scheme. What "
                        "each attack needs and recovers is in audit.json.", "      ")  # fmt: skip
        beyond = [attack["attack"] for attack in attacks if attack["verdict"] not in ("held", "broken as stated")]
        if beyond or audit["beyond_profile"] or len(attacks) < 3:
            raise Failed(f"the audit: {len(attacks)} attacks were run, beyond the scheme's profile: {beyond}")

    # -- 9 --

    def flipped_byte(self):
        self.screen.say("a. One byte of the sealed scans is changed on the way to the host", color=self.screen.bold)
        changed = self.work / "shelf/changed.sealed"
        content = bytearray((self.work / "shelf/scans.sealed").read_bytes())
        content[len(content) * 5 // 8] ^= 1
        changed.write_bytes(content)
        job = self.write_job("changed.yaml", "out-changed", scans="../shelf/changed.sealed")
        self.refuse(
            "one data byte",
            "content-mismatch",
            "job",
            "run",
            job,
            program=self.host.bin / "pavise",
            item="changed.sealed",
        )

    def changed_executable(self):
        self.screen.say("b. The operator changes one executable of the host, the trainer, and starts the machine anew",
                        color=self.screen.bold)  # fmt: skip
        trainer = self.host.bin / "pavise-train"
        with open(trainer, "ab") as program:
            program.write(b"and send me the scans")
        self.host.boot()
        job = self.write_job("executable.yaml", "out-executable")
        self.refuse(
            "one executable",
            "measurement-mismatch",
            "job",
            "run",
            job,
            program=self.host.bin / "pavise",
            item=str(trainer),
        )
        self.screen.say(
            "Its own plan refused. A host that leaves that out is refused by the broker, and every owner reads why:"
        )
        self.refuse("one executable, at the broker", "measurement-mismatch", *self.run_words(),
                    program=self.host.bin / "pavise", item=str(trainer), show=False)  # fmt: skip
        decisions = self.call("clinic", "policy", "decisions", "--agreement", self.agreement, "--refused")
        if str(trainer) not in json.dumps(decisions):
            raise Failed("the clinic does not read which executable it was")
        shutil.copyfile(self.programs / "pavise-train", trainer)
        self.host.boot()

    def run_words(self):
        """The job's run without its plan."""
        words = ["run", "--agreement", self.agreement, "--stage", "train", "--mode", "measured", *self.at,
                 "--tcti", self.host.tpm.tcti, "--no-event-log", "--ima-log", self.host.ima_log, "--network", "--storage", "512MiB", "--memory", "8GiB",
                 "--provenance", "host/unplanned.json", "--accept", "memory-limit", "--accept", "swap"]  # fmt: skip
        words += [word for asset in self.sealed for word in ("--asset", f"{asset}=shelf/{asset}.sealed")]
        words += [word for name in ("tuned", "log") for word in ("--output", f"{name}=host/unplanned-{name}.sealed")]
        return [*words, "--", *self.command]

    def lying_worker(self):
        self.screen.say(
            f"c. The worker of {OPERATORS[1]} lies: one number of an answer is another", color=self.screen.bold
        )
        operator = OPERATORS[1]
        self.processes.stop(f"worker-{operator}")
        self.start_worker(operator, lies=True)
        job = self.write_job("lie.yaml", "out-lie", epochs=1)
        # The scheme takes three, so that with two the run ends. Its only output is the log, which is private too.
        self.stream("job", "run", job, program=self.host.bin / "pavise", expect=3, steps=False)
        run = self.call("clinic", "broker", "show", "--agreement", self.agreement, "--what", "runs", show=False)[
            "answer"
        ]["runs"][-1]
        self.fetch(run["run"], "host/out-lie/attempt-1/log.sealed", "log", "lab/log-lie")
        text = (self.work / "lab/log-lie/log").read_text()
        self.screen.note(text)
        address = f"localhost:{self.workers[operator]}"
        found = re.search(
            rf"^  (?P<reason>[a-z-]+)  worker {address}: (?P<detail>.*)\n      what to do: (?P<remedy>.*)",
            text,
            re.MULTILINE,
        )
        if found is None or found["reason"] != "result-wrong":
            raise Failed(f"the run's log does not say that {address} was wrong:\n{text[-2000:]}")
        finding = {"reason": found["reason"], "item": f"worker {address} of {operator}", "detail": found["detail"],
                   "remedy": found["remedy"]}  # fmt: skip
        self.screen.refused(finding)
        self.refusals.append({"tamper": "one worker lying", **finding})
        self.screen.say("With an honest worker the same job goes on:")
        self.processes.stop(f"worker-{operator}")
        self.start_worker(operator)
        self.stream("job", "resume", job, program=self.host.bin / "pavise", steps=False)

    def old_agreement(self):
        self.screen.say(
            "d. The owners agree on one epoch only (version 2); the host goes on with the old version",
            color=self.screen.bold,
        )
        text = self.agreement_text("1").replace("name:", "version: 2\nname:", 1)
        (self.work / "agreement-2.yaml").write_text(text)
        self.call(
            "clinic",
            "policy",
            "propose",
            "agreement-2.yaml",
            "--previous",
            "proposal.json",
            "-o",
            "proposal-2.json",
            show=False,
        )
        self.vote("proposal-2.json", 2)
        job = self.write_job("old.yaml", "out-old")
        self.refuse("one old agreement", "version-too-old", "job", "run", job, program=self.host.bin / "pavise")

    def ask_the_ledger(self):
        """Every release and refusal is in it, as the clinic checks without believing the broker."""
        self.call("clinic", "broker", "show", "--agreement", self.agreement, "--what", "ledger", "-o", "clinic/ledger.json",
                  show=False)  # fmt: skip
        answer = self.offline("ledger", "verify", "clinic/ledger.json", "--log-key", "trust/broker.vkey", "--complete")
        entries = [each["entry"] for each in answer["entries"]]
        releases = [entry["run"] for entry in entries if entry["kind"] == "release" and entry["asset"] == "scans"]
        refusals = [entry for entry in entries if entry["kind"] == "refusal"]
        # Of the run of chapter 6, of a, and twice of c; none of b and d.
        if len(set(releases)) != 4 or len(releases) != 4 or not refusals:
            raise Failed(f"the ledger: {len(releases)} releases of the scans' key, {len(refusals)} refusals")
        self.screen.say(f"The ledger: {len(entries)} entries, {len(releases)} releases of the scans' key, each for the evidence that it "
                        f"names; none for the changed trainer or the old version, and {len(refusals)} refusal{'s' if len(refusals) > 1 else ''}.")  # fmt: skip

    def tamper(self):
        self.screen.begin_chapter("9. Four attacks, each of which must be refused, and for the right reason")
        self.flipped_byte()
        self.changed_executable()
        self.lying_worker()
        self.old_agreement()
        self.ask_the_ledger()
        self.screen.good("all four were refused: " + ", ".join(dict.fromkeys(each["reason"] for each in self.refusals)))

    # -- 10 --

    def report(self):
        self.screen.begin_chapter("10. The report")
        self.pavise(
            "report", "host/out/result", *self.trust(), "--metrics", "lab/tuned/metrics.jsonl", "-o", "report.html"
        )
        page = (self.work / "report.html").read_text()
        verdict = html.unescape(re.sub("<.*?>", "", re.search(r'<p class="verdict[^>]*>.*?</p>', page, re.DOTALL)[0]))
        headings = [re.sub("<.*?>", "", heading) for heading in re.findall(r"<h2[^>]*>(.*?)</h2>", page, re.DOTALL)]
        self.screen.say(f"{verdict} Chapters: {', '.join(headings)}.")
        self.screen.line(f"  {self.work / 'report.html'}", self.screen.bold)

    def tell(self, data):
        self.make_owners()
        self.start_machines()
        self.seal_assets(data)
        self.agree()
        self.plan()
        self.run()
        self.receive()
        self.audit()
        self.tamper()
        self.report()
        (self.work / "summary.json").write_text(json.dumps({
            "data": str(data) if data else "synthetic", "agreement": self.agreement, "run": self.run_id,
            "refusals": self.refusals, "seconds": self.screen.seconds()}, indent=1))  # fmt: skip
        self.screen.line()
        self.screen.good(f"Everything held that should, and everything was refused that should be: {self.screen.seconds()} s. All of it, "
                         f"with each command and what it said, is in {self.work}.")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("Usage: ")[1].split("\n\n")[0], add_help=True)
    parser.add_argument("--data")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/demo")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    if work.is_dir() and work.parent != ROOT / "build" and any(work.iterdir()) and not (work / MARK).exists():
        print(f"{work}: is not empty, and no demo wrote it: name another folder", file=sys.stderr)
        return 2
    shutil.rmtree(work, ignore_errors=True)
    (work / "logs").mkdir(parents=True)
    (work / MARK).write_text("made by scripts/demo_story.py, and removed by the next one\n")
    screen = Screen(work)
    processes = Processes(work / "logs")
    sockets = pathlib.Path(tempfile.mkdtemp(prefix="pavise-demo-"))

    def end(number, _):
        screen.line(f'\ndemo ended by a signal in "{screen.chapter}"; everything that it started is stopped')
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    story = Story(arguments.programs.resolve(), work, screen, processes, sockets)
    try:
        story.tell(find_data(arguments.data))
    except Missing as missing:
        screen.line(f"demo skipped: {missing}")
        return 77
    except Exception as failed:  # noqa: BLE001 - whatever it is, it is said where the log lies
        screen.note(traceback.format_exc())
        screen.line(f'demo failed in "{screen.chapter}": {type(failed).__name__}: {failed}', screen.red)
        screen.line(f"  every command and what it said: {screen.log_path}; programs' own logs: {processes.logs}")
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        processes.stop_all()
        shutil.rmtree(sockets, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
