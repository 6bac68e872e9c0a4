#!/usr/bin/env python3
"""Jobs, end to end, on real components.

Three owners, a broker on SQLite and two on one PostgreSQL, a host with a software TPM, one that boots in QEMU
from an image, pavise-worker programs behind mutual TLS, and pavise-train in its containment. `pavise job` goes from
sealed assets to a result that is verified without a network; what is tampered with is refused with the expected
reason, and a job that is killed, or whose broker is, comes to its end.

Usage: job_test.py BIN WORK [TEST...]     BIN has the programs; WORK a kernel/ (run.sh)
Prints PASS, FAIL or SKIP lines, one a test.
"""

import contextlib
import functools
import glob
import hashlib
import http.server
import json
import os
import pathlib
import pwd
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "measured_boot"))

import boot  # noqa: E402
from boot_test import Kit, Skipped  # noqa: E402
from parts import NO_LOGS, Shelf, SoftwareTpm, free_port, run_tests  # noqa: E402
from relay import Mischief, Relay  # noqa: E402

TRAINER = "/pavise/assets/trainer/pavise-train"
WORKERS = ("north", "south", "west")
OWNERS = ("vendor", "clinic", "lab")
STEP_TIMEOUT_S = 240


def run(*words, **more):
    subprocess.run(list(map(str, words)), check=True, capture_output=True, **more)


class Certificates:
    """Authorities of workers and of coordinators, and what they certified for this machine."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(mode=0o755)
        for side in ("workers", "coordinators"):
            run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2",
                "-subj", f"/CN={side}", "-addext", "keyUsage=critical,keyCertSign", "-keyout", self.file(side, "key"),
                "-out", self.file(side, "pem"))  # fmt: skip
        for name in WORKERS:
            self._issue("workers", name, "serverAuth")
        self._issue("coordinators", "coordinator", "clientAuth")
        # The contained trainer reads it, as a user of its own.
        self.file("coordinator", "key").chmod(0o644)

    def file(self, name, suffix):
        return self.folder / f"{name}.{suffix}"

    def _issue(self, authority, name, usage):
        extensions = self.file(name, "ext")
        extensions.write_text("subjectAltName=DNS:localhost\nkeyUsage=critical,digitalSignature\n"
                              f"extendedKeyUsage={usage}\n")  # fmt: skip
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-subj", f"/CN={name}",
            "-keyout", self.file(name, "key"), "-out", self.file(name, "csr"))  # fmt: skip
        run("openssl", "x509", "-req", "-in", self.file(name, "csr"), "-CA", self.file(authority, "pem"), "-CAkey",
            self.file(authority, "key"), "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out",
            self.file(name, "pem"))  # fmt: skip


class Worker:
    """pavise-worker on a port of its own, behind a relay."""

    def __init__(self, kit, name, certificates):
        self.process = subprocess.Popen(
            [kit.programs / "pavise-worker", "--listen", "127.0.0.1:0", "--threads", "1", "--name", name, "--cert",
             certificates.file(name, "pem"), "--key", certificates.file(name, "key"), "--client-ca",
             certificates.file("coordinators", "pem")], stdout=subprocess.PIPE, text=True)  # fmt: skip
        said = self.process.stdout.readline()
        self.relay = Relay(name, int(said.split("port ")[1].split(",")[0]), certificates)

    def close(self):
        boot.stop(self.process)
        self.process.stdout.close()


class PostgresqlCluster:
    """A server of our own, on a socket in a folder of its own."""

    def __init__(self):
        programs = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
        if not programs:
            raise Skipped("PostgreSQL's server is not installed")
        self.programs = pathlib.Path(programs[-1]).parent
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="job-pg-"))
        self.folder.chmod(0o755)
        data = self.folder / "data"
        data.mkdir(mode=0o700)
        # PostgreSQL's programs do not run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            owner = pwd.getpwnam(self.user)
            os.chown(data, owner.pw_uid, owner.pw_gid)
        self.data = data
        self.location = f"host={data} user=pavise dbname=postgres"
        self._run("initdb", "-N", "-A", "trust", "-U", "pavise", "--locale=C", "-E", "UTF8", "-D", data)
        self._control("-o", f"-k {data} -h ''", "start")

    def _run(self, program, *words):
        run(self.programs / program, *words, cwd="/", user=self.user, group=self.user,
            **({"extra_groups": []} if self.user else {}))  # fmt: skip

    def _control(self, *words):
        self._run("pg_ctl", "-s", "-w", "-D", self.data, "-l", self.data / "log", *words)

    def close(self):
        self._control("-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


class Balancer:
    """One address before brokers side by side: connections go to the first that takes them."""

    def __init__(self, ports):
        self.ports = ports
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            for port in self.ports:
                with contextlib.suppress(OSError):
                    broker = socket.create_connection(("127.0.0.1", port))
                    for ends in ((client, broker), (broker, client)):
                        threading.Thread(target=self._copy, args=ends, daemon=True).start()
                    break
            else:
                client.close()

    @staticmethod
    def _copy(source, target):
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 16):
                target.sendall(part)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.server.close()


class Brokers:
    """One broker on SQLite, or two on one PostgreSQL behind a balancer; `url` is what everybody asks."""

    def __init__(self, kit, folder, tpm, postgresql=None):
        self.kit, self.folder = kit, folder
        folder.mkdir()
        self.certificate = folder / "tls.crt"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "tls.key", "-out",
            self.certificate)  # fmt: skip
        der = subprocess.run(["openssl", "x509", "-in", self.certificate, "-outform", "DER"], check=True,
                             capture_output=True).stdout  # fmt: skip
        self.pin = hashlib.sha256(der).hexdigest()
        self.policy = folder / "broker-policy.json"
        self.policy.write_text(json.dumps({
            "pavise_appraisal_policy": 1, "required": ["tpm"],
            "tpm": {"attestation_keys": [tpm.attestation_key(kit)], **NO_LOGS},
        }))  # fmt: skip
        self.ports = [free_port() for _ in range(2 if postgresql else 1)]
        store = {"postgresql": postgresql} if postgresql else {"sqlite": str(folder / "broker.db")}
        for port in self.ports:
            (folder / f"{port}.json").write_text(json.dumps({
                "pavise_broker": 1, "name": "broker.test/jobs", "listen": f"127.0.0.1:{port}", "metrics": "",
                "certificate": str(self.certificate), "private_key": str(folder / "tls.key"), **store,
                "root_key": str(folder / "root_key.json"), "tpm": tpm.tcti, "attest": True, "attest_logs": False,
            }))  # fmt: skip
        kit.pavise("broker", "init", "--config", folder / f"{self.ports[0]}.json")
        self.processes = [self._start(port) for port in self.ports]
        self.balancer = Balancer(self.ports) if postgresql else None
        self.port = self.balancer.port if postgresql else self.ports[0]
        self.url = f"https://127.0.0.1:{self.port}"
        self.at = ["--broker", self.url, "--broker-ca", self.certificate]
        # What owners verify results with.
        self.key, self.log_key = folder / "broker.pub", folder / "broker.vkey"
        kit.pavise("broker", "status", *self.at, "--signing-key-out", self.key, "--ledger-key-out", self.log_key)

    def _start(self, port):
        log = self.folder / f"{port}.log"
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [self.kit.programs / "pavise", "broker", "serve", "--config", self.folder / f"{port}.json"],
                stdout=file, stderr=file)  # fmt: skip
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return process
            if process.poll() is not None:
                break
            time.sleep(0.05)
        boot.stop(process)
        raise AssertionError("no broker:\n" + log.read_text()[-2000:])

    def close(self):
        for process in self.processes:
            boot.stop(process)
        if self.balancer:
            self.balancer.close()


def idx_halves(folder, prefix, count):
    """Images of 8 x 8 in IDX, as MNIST has it, whose upper or lower half is bright: their class."""
    images, labels = struct.pack(">IIII", 0x803, count, 8, 8), struct.pack(">II", 0x801, count)
    noise = count
    for image in range(count):
        lower = image % 2
        labels += bytes([lower])
        for pixel in range(64):
            noise = (noise * 1664525 + 1013904223) % 2**32
            images += bytes([(150 if (pixel >= 32) == lower else 20) + (noise >> 26)])
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)


class World:
    """The owners with their sealed assets, the host's TPM and the workers."""

    def __init__(self, kit):
        self.kit = kit
        self.folder = kit.work / "jobs"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._closing = contextlib.ExitStack()
        self._sqlite = self._guest = self.agreement = None
        self.training_bytes = None  # of answers, by the worker that gives most, in a run of two epochs
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self):
        kit = self.kit
        self.tpm = self._open(SoftwareTpm(self.folder / "machine"))
        self.machine_key = self.tpm.attestation_key(kit)
        self.broker_tpm = self._open(SoftwareTpm(self.folder / "broker-machine"))
        boot.need("bwrap", "bubblewrap")
        for owner in OWNERS:
            kit.pavise("keygen", "-o", self.folder / f"{owner}.pem")
            kit.pavise("keygen", "-o", self.folder / f"{owner}-enc.pem")
        self.sealed = {}
        (self.folder / "scans").mkdir()
        idx_halves(self.folder / "scans", "train", 480)
        idx_halves(self.folder / "scans", "t10k", 32)
        self.seal("clinic", "scans")
        self.workers = []
        if not all((kit.programs / name).exists() for name in ("pavise-train", "pavise-worker")):
            return
        self.certificates = Certificates(self.folder / "certificates")
        self.workers += [self._open(Worker(kit, name, self.certificates)) for name in WORKERS]
        (self.folder / "trainer").mkdir()
        shutil.copy(kit.programs / "pavise-train", self.folder / "trainer")
        self.seal("vendor", "trainer")

    def _open(self, part):
        self._closing.callback(part.close)
        return part

    def close(self):
        self._closing.close()

    @property
    def sqlite(self):
        if self._sqlite is None:
            self._sqlite = self._open(Brokers(self.kit, self.folder / "sqlite", self.broker_tpm))
        return self._sqlite

    @property
    def guest(self):
        if self._guest is None:
            self._guest = self._open(Guest(self))
        return self._guest

    def seal(self, owner, asset):
        self.kit.pavise("sign", self.folder / asset, "--private-key", self.folder / f"{owner}.pem", "--signature",
                        self.folder / f"{asset}.sig")  # fmt: skip
        result = self.kit.pavise("seal", self.folder / asset, "-o", self.folder / f"{asset}.sealed", "--signature",
                                 self.folder / f"{asset}.sig", "--recipient", self.folder / f"{owner}-enc.pub")  # fmt: skip
        self.sealed[asset] = (owner, result["asset_id"])

    def call(self, brokers, owner, *words, expect=0):
        return self.kit.pavise(*words, *brokers.at, "--private-key", self.folder / f"{owner}.pem", expect=expect)

    def mischief(self, *words, **more):
        mischief = Mischief(*words, **more)
        for worker in self.workers:
            worker.relay.begin(mischief)
        return mischief

    @property
    def addresses(self):
        return {worker.relay.address: name for worker, name in zip(self.workers, WORKERS)}


class Agreement:
    """An agreement of the three owners, in force at brokers, with deposits; `received` is what `policy show` wrote."""

    def __init__(self, world, brokers, name, assets, stage, policy):
        self.world, self.brokers, self.assets = world, brokers, assets
        self.folder = world.folder / name
        self.folder.mkdir()
        for path, text in policy.items():
            (self.folder / path).write_text(text)
        for owner in OWNERS:
            for suffix in (".pub", "-enc.pub"):
                shutil.copy(world.folder / f"{owner}{suffix}", self.folder)
        kinds = {"trainer": "code", "tool": "code", "scans": "data"}
        self.lines = [f"name: {name}", "stakeholders:"]
        self.lines += [f"  {owner}: {{signing_key: {owner}.pub, encryption_key: {owner}-enc.pub}}" for owner in OWNERS]
        self.lines += ["changes: {approvals: 3, of: [vendor, clinic, lab]}", "assets:"]
        for asset in assets:
            shutil.copy(world.folder / f"{asset}.sig", self.folder)
            owner, sealed = world.sealed[asset]
            self.lines.append(f"  {asset}: {{kind: {kinds[asset]}, owner: {owner}, signature: {asset}.sig, "
                              f"sealed: {sealed}}}")  # fmt: skip
        self.lines += ["stages:", "  train:", *("    " + line for line in stage)]
        proposal = self._propose(1)
        self.id = proposal["digest"]
        self._vote(1, dict.fromkeys(world.sealed[asset][0] for asset in assets))
        for asset in assets:
            owner, _ = world.sealed[asset]
            world.call(brokers, owner, "broker", "deposit", world.folder / f"{asset}.sealed", "--agreement", self.id,
                       "--asset", asset, "--encryption-key", world.folder / f"{owner}-enc.pem", "--policy",
                       brokers.policy)  # fmt: skip
        self.received = self.receive("received")

    def _propose(self, version, *words):
        yaml = self.folder / f"agreement-{version}.yaml"
        yaml.write_text("\n".join(self.lines) + "\n")
        return self.world.call(self.brokers, "vendor", "policy", "propose", yaml, "-o", self.folder / f"v{version}.json",
                               *words)  # fmt: skip

    def _vote(self, version, owners):
        words = ["--agreement", self.id] if version > 1 else []
        for owner in owners:
            self.world.call(self.brokers, owner, "policy", "approve", self.folder / f"v{version}.json", *words)

    def supersede(self, old, new):
        """Version 2, with one text replaced."""
        text = "\n".join(self.lines)
        assert text.count(old) == 1, old
        self.lines = text.replace(old, new).split("\n")
        self._propose(2, "--previous", self.folder / "v1.json")
        self._vote(2, OWNERS)

    def receive(self, name):
        folder = self.folder / name
        self.world.call(self.brokers, "lab", "policy", "show", "--agreement", self.id, "-o", folder)
        return folder

    def ledger(self):
        """The kinds of its entries, after the bundle was verified whole."""
        bundle = self.folder / "ledger.json"
        self.world.call(self.brokers, "lab", "broker", "show", "--agreement", self.id, "--what", "ledger", "-o", bundle)
        result = self.world.kit.pavise("ledger", "verify", bundle, "--log-key", self.brokers.log_key, "--complete")
        return [entry["entry"]["kind"] for entry in result["entries"]]

    def runs(self):
        show = ["broker", "show", "--agreement", self.id, "--what", "runs"]
        return self.world.call(self.brokers, "lab", *show)["answer"]["runs"]

    def fetch(self, run_id, output, sealed):
        """What the lab gets, when the data's owner agrees; the folder."""
        of_run = ["--agreement", self.id, "--run", run_id, "--name", output]
        target = self.folder / f"{output}-of-{run_id}"
        words = ["broker", "fetch-output", sealed, *of_run, "--encryption-key", self.world.folder / "lab-enc.pem", "-o",
                 target]  # fmt: skip
        self.world.call(self.brokers, "lab", *words, expect=1)
        self.world.call(self.brokers, "clinic", "policy", "approve-output", *of_run, "--recipient", "lab")
        self.world.call(self.brokers, "lab", *words)
        return target


# As a job's `train` makes the command; what a host names itself is its operator's.
TRAIN_PATTERN = [TRAINER, "train", "--data", "/pavise/assets/scans", "--output", "/pavise/outputs/tuned", "--no-signature",
                 "--discard-checkpoint", "--network", "mlp", "--epochs", "*", "--batch-size", "16", "--seed", "7",
                 "--threads", "1", "--mode", "obfuscated", "--scheme", "orthogonal", "--workers", "*", "--worker-ca", "*",
                 "--cert", "*", "--key", "*"]  # fmt: skip


def training_agreement(world, brokers, name):
    """For this machine's TPM; guests and confidential GPUs are welcome, too, and this machine is neither."""
    if not world.workers:
        raise Skipped("pavise-train or pavise-worker is not built (libtorch-dev, libgrpc++-dev)")
    stage = [
        "purpose: a model for the clinic's scans",
        "modes: {measured: {policy: measured.json}, tee: {policy: tee.json}, confidential-gpu: {policy: gpu.json}}",
        "code: trainer", f"command: [{', '.join(json.dumps(word) for word in TRAIN_PATTERN)}]", "inputs: [scans]",
        "outputs:", "  tuned: {recipients: [lab]}", "  log: {recipients: [lab]}",
        "limits: {not_after: 2099-01-01T00:00:00Z, runs: 20}",
        f"network: [{', '.join(json.dumps(address) for address in world.addresses)}]",
        "reattest_seconds: 30", "broker_grace_seconds: 120"]  # fmt: skip
    tpm = {"attestation_keys": [world.machine_key], **NO_LOGS}
    policy = {"measured.json": {"required": ["tpm"], "tpm": tpm}, "tee.json": {"required": ["tee"]},
              "gpu.json": {"required": ["tee", "gpu"]}}  # fmt: skip
    return Agreement(world, brokers, name, ("trainer", "scans"), stage, {
        path: json.dumps({"pavise_appraisal_policy": 1, **content}) for path, content in policy.items()})  # fmt: skip


class Job:
    """A job file in a folder of its own, and what is done with it."""

    def __init__(self, agreement, name, lines, assets=None):
        world, brokers = agreement.world, agreement.brokers
        self.agreement, self.kit = agreement, world.kit
        self.folder = agreement.folder / name
        self.folder.mkdir()
        self.result = self.folder / "out/result"
        sealed = {asset: world.folder / f"{asset}.sealed" for asset in agreement.assets} | (assets or {})
        self.path = self.folder / "job.yaml"
        self.path.write_text("\n".join([
            f"agreement: {agreement.received}", "stage: train",
            f'broker: {{url: "{brokers.url}", authority: {brokers.certificate}}}',
            f"assets: {{{', '.join(f'{asset}: {path}' for asset, path in sealed.items())}}}", *lines,
            "output: out", f"ledger_reader: {world.folder / 'lab.pem'}"]) + "\n")  # fmt: skip

    def pavise(self, verb, *words, expect=0):
        try:
            return self.kit.pavise("job", verb, self.path, *words, expect=expect)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") if "ended with status" in str(error) else error

    def start(self, verb="run"):
        """In the background."""
        with open(self.folder / f"{verb}.txt", "wb") as output:
            return subprocess.Popen([self.kit.programs / "pavise", "job", verb, self.path], stdout=output, stderr=output)

    def said(self, verb="run"):
        return (self.folder / f"{verb}.txt").read_text()

    def finish(self, process, verb="run"):
        assert process.wait(STEP_TIMEOUT_S) == 0, self.said(verb)

    def failed(self, verb="run"):
        """The trainer did not end well; what it printed."""
        told = self.kit.pavise("job", verb, self.path, expect=3)["error"]
        assert "ended with status" in told, told
        return self.log()

    def log(self):
        """What the trainer of a run that failed printed."""
        (sealed,) = (self.folder / "out").glob("attempt-*/log.sealed")
        return (self.agreement.fetch(self.agreement.runs()[-1]["run"], "log", sealed) / "log").read_text()

    def refused(self, verb, *reasons, items=()):
        """With these reasons first; the items of all of them have these words."""
        findings = self.pavise(verb, expect=1)["findings"]
        assert [each["reason"] for each in findings[: len(reasons)]] == list(reasons), findings
        text = json.dumps(findings)
        assert all(item in text for item in items), findings
        return findings


def training_job(agreement, name, mode=None, assets=None):
    """In mode obfuscated, on this machine with its TPM; or in another mode."""
    world = agreement.world
    if mode is None:
        file = world.certificates.file
        workers = ", ".join(f'{{address: "{address}", operator: {operator}}}'
                            for address, operator in world.addresses.items())  # fmt: skip
        how = ["mode: obfuscated", "scheme: orthogonal", f"workers: [{workers}]",
               f"worker_tls: {{authority: {file('workers', 'pem')}, certificate: {file('coordinator', 'pem')}, "
               f"key: {file('coordinator', 'key')}}}",
               f'evidence: {{tcti: "{world.tpm.tcti}", no_event_log: true, no_ima_log: true}}']  # fmt: skip
    else:
        how = [f"mode: {mode}"]
    return Job(agreement, name, [
        *how, "outputs: {tuned: [lab], log: [lab]}",
        f"train: {{program: {TRAINER}, data: scans, output: tuned, network: mlp, epochs: 2, batch_size: 16, seed: 7, "
        "threads: 1}",
        "containment: {memory_mib: 8192, storage_mib: 512, accept: [memory-limit, cpu-limit, swap]}"], assets)  # fmt: skip


@functools.cache
def without_network():
    """A command's beginning that takes the network away, where that is allowed."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    return []


def verify(job, expect=0):
    agreement = job.agreement
    done = subprocess.run(
        [*without_network(), job.kit.programs / "pavise", "job", "verify", job.result, "--agreement", agreement.id,
         "--broker-key", agreement.brokers.key, "--log-key", agreement.brokers.log_key, "--json"],
        capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def check_result(job):
    """The result holds for an owner without a network, and with one byte changed in any file it does not."""
    verified = verify(job)
    assert verified["agreement"] == job.agreement.id, verified
    inputs = {each["name"]: each["asset_id"] for each in verified["inputs"]}
    assert inputs == {name: job.agreement.world.sealed[name][1] for name in job.agreement.assets}, verified
    files = sorted(path for path in job.result.rglob("*") if path.is_file())
    reasons = {}
    for path in files:
        with open(path, "r+b") as file:
            at = path.stat().st_size // 2
            file.seek(at)
            byte = file.read(1)
            for value in (bytes([byte[0] ^ 1]), byte):
                file.seek(at)
                file.write(value)
                file.flush()
                if value == byte:
                    continue
                finding = verify(job, expect=1)["findings"][0]
                assert finding["item"] and finding["detail"], finding
                reasons.setdefault(finding["reason"], []).append(str(path.relative_to(job.result)))
    verify(job)
    names = {"provenance.json", "evidence.cbor", "ledger.json", *(f"outputs/{each['name']}.sealed" for each in
             verified["outputs"])}  # fmt: skip
    assert names <= {str(path.relative_to(job.result)) for path in files}, files
    print(f"      one byte of each of {len(files)} files:", *(f"{reason} {len(of)}" for reason, of in reasons.items()))
    return verified


def wait_for(event, job, process):
    """Until the relays got that far in the job's training."""
    for _ in range(STEP_TIMEOUT_S * 10):
        if event.wait(0.1):
            return
        if process.poll() is not None:
            break
    raise AssertionError(job.said())


def sqlite_agreement(world):
    """One for the tests on SQLite that change nothing of it."""
    if world.agreement is None:
        world.agreement = training_agreement(world, world.sqlite, "training")
    return world.agreement


def epochs_of(tuned):
    lines = (tuned / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "test_accuracy" in line]


def obfuscated_on_sqlite(world):
    agreement = sqlite_agreement(world)
    job = training_job(agreement, "plain")
    plan = job.pavise("plan")
    assert plan["mode"] == "obfuscated" and plan["leaks"] and plan["trusted"] and plan["cost"], plan
    assert "release" not in agreement.ledger()
    world.mischief()
    result = job.pavise("run")
    world.training_bytes = max(worker.relay.answered_bytes for worker in world.workers)
    assert job.pavise("status")["step"] == "done"
    verified = check_result(job)
    assert verified["run"] == result["run"] and verified["stage"] == "train" and verified["mode"] == "measured", verified
    kinds = agreement.ledger()
    assert kinds.count("release") == 2 and kinds.count("run-begun") == 1 and kinds.count("output-deposited") == 2, kinds
    tuned = agreement.fetch(result["run"], "tuned", job.result / "outputs/tuned.sealed")
    assert (tuned / "model/model.safetensors").stat().st_size > 512 * 512 * 4 and not list(tuned.rglob("checkpoint*"))
    world.epochs = epochs_of(tuned)
    assert len(world.epochs) == 2 and world.epochs[-1]["test_accuracy"] > 0.9, world.epochs


def two_brokers_on_postgresql(world):
    """The one that the host speaks to is killed while the trainer works."""
    with contextlib.closing(PostgresqlCluster()) as cluster, \
            contextlib.closing(Brokers(world.kit, world.folder / "postgresql", world.broker_tpm, cluster.location)) as brokers:  # fmt: skip
        agreement = training_agreement(world, brokers, "training-side-by-side")
        job = training_job(agreement, "carried-on")
        mischief = world.mischief("hold", world.training_bytes // 2)
        process = job.start()
        try:
            wait_for(mischief.begun, job, process)
            brokers.processes[0].kill()
            brokers.processes[0].wait()
            mischief.released.set()
            job.finish(process)
        finally:
            mischief.released.set()
            boot.stop(process)
        check_result(job)
        kinds = agreement.ledger()
        # The same run: no key left a second time.
        assert kinds.count("release") == 2 and kinds.count("run-begun") == 1 and kinds.count("run-ended") == 1, kinds
        assert "reattested" in kinds, kinds


def killed_in_training(world):
    agreement = sqlite_agreement(world)
    job = training_job(agreement, "killed")
    before = agreement.ledger()
    mischief = world.mischief("hold", world.training_bytes // 2)
    process = job.start()
    try:
        wait_for(mischief.begun, job, process)
        process.kill()
        process.wait()
    finally:
        mischief.released.set()
        boot.stop(process)
    assert job.pavise("status")["step"] == "running" and not job.result.exists()
    world.mischief()
    result = job.pavise("resume")
    verified = check_result(job)
    assert verified["run"] == result["run"] and job.pavise("status")["attempts"] == 2
    # Each release has its entry: two keys, twice, in two runs.
    kinds = agreement.ledger()[len(before):]
    assert kinds.count("release") == 4 and kinds.count("run-begun") == 2, kinds


def lying_worker(world):
    """It is caught, named and evicted, and the training is that of honest workers; where all lie there is none."""
    agreement = sqlite_agreement(world)
    job = training_job(agreement, "liar")
    mischief = world.mischief("lie", world.training_bytes // 2)
    result = job.pavise("run")
    assert len(mischief.culprits) == 1, mischief.culprits
    log = agreement.fetch(result["run"], "log", job.result / "outputs/log.sealed") / "log"
    (blamed,) = [line for line in log.read_text().splitlines() if "evicted" in line]
    assert f"worker {mischief.culprits[0]}" in blamed and "what rounding explains" in blamed, blamed
    verify(job)
    tuned = agreement.fetch(result["run"], "tuned", job.result / "outputs/tuned.sealed")
    for name in ("step", "test_accuracy"):
        assert epochs_of(tuned)[-1][name] == world.epochs[-1][name], name

    job = training_job(agreement, "liars")
    mischief = world.mischief("lie", world.training_bytes // 2, everybody=True)
    log = job.failed()
    assert "no worker is left" in log, log
    for address in world.addresses:
        assert f"result-wrong  worker {address}: " in log, log
    assert sorted(mischief.culprits) == sorted(world.addresses), mischief.culprits
    assert not job.result.exists() and job.pavise("status")["step"] == "running"


def changed_asset_bytes(world):
    """One byte of the data, one of the trainer: refused with the keys in hand, and nothing is trained."""
    agreement = sqlite_agreement(world)
    for asset in ("scans", "trainer"):
        sealed = bytearray((world.folder / f"{asset}.sealed").read_bytes())
        sealed[-1000] ^= 1
        changed = agreement.folder / f"{asset}-changed.sealed"
        changed.write_bytes(sealed)
        mischief = world.mischief()
        job = training_job(agreement, f"changed-{asset}", assets={asset: changed})
        job.pavise("plan")
        job.refused("run", "content-mismatch")
        assert not mischief.culprits and not any(worker.relay.answered_bytes for worker in world.workers)
        assert not job.result.exists()
        # Put right, it goes on.
        shutil.copy(world.folder / f"{asset}.sealed", changed)
    job.pavise("resume")
    verify(job)


def another_trainer(world):
    """Another executable than the vendor signed, sealed by whoever has the machine."""
    agreement = sqlite_agreement(world)
    before = agreement.ledger()
    folder = agreement.folder / "other"
    folder.mkdir()
    with open(shutil.copy(world.folder / "trainer/pavise-train", folder), "ab") as program:
        program.write(b"another program")
    sealed = agreement.folder / "other.sealed"
    sign = ["seal", folder, "-o", sealed, "--signature", world.folder / "trainer.sig", "--recipient",
            world.folder / "lab-enc.pub"]  # fmt: skip
    world.kit.pavise(*sign)
    job = training_job(agreement, "other-trainer", assets={"trainer": sealed})
    job.refused("plan", "content-mismatch", items=["other.sealed"])
    job.refused("run", "content-mismatch", items=["other.sealed"])
    assert agreement.ledger() == before


def superseded_agreement(world):
    """The owners agreed on a second version since: the old folder's plan is not run under it, and no key moves."""
    agreement = training_agreement(world, world.sqlite, "superseded")
    job = training_job(agreement, "old")
    job.pavise("plan")
    agreement.supersede("runs: 20", "runs: 3")
    job.refused("run", "version-too-old", items=["version 2"])
    kinds = agreement.ledger()
    assert not {"release", "run-begun"} & set(kinds), kinds
    # With the folder of now.
    shutil.rmtree(agreement.received)
    agreement.receive("received")
    world.mischief()
    job.pavise("resume")
    assert verify(job)["version"] == 2
    # The result of version 2, with the folder of version 1.
    for path in sorted((job.result / "agreement").glob("*.json"))[4:]:
        path.unlink()
    assert verify(job, expect=1)["findings"][0]["reason"] == "file-missing"


def modes_of_other_machines(world):
    agreement = sqlite_agreement(world)
    before = agreement.ledger()
    for mode in ("tee", "confidential-gpu"):
        job = training_job(agreement, mode, mode=mode)
        for verb in ("plan", "run"):
            job.refused(verb, items=["unsupported", "this machine cannot offer it"])
        assert not job.result.exists()
    assert agreement.ledger() == before


# For machines without a shell: what comes out are the test's labels, each byte changed.
TOOL = """
#include <stdio.h>
int main(void) {
  FILE* from = fopen("/pavise/assets/scans/t10k-labels-idx1-ubyte", "rb");
  FILE* to = fopen("/pavise/outputs/tuned", "wb");
  int c;
  if (!from || !to) { perror("tool"); return 1; }
  while ((c = getc(from)) != EOF) putc(c ^ 0x20, to);
  return fclose(from) | fclose(to);
}
"""
TOOL_PATH = "/pavise/assets/tool/tool"


class Guest:
    """Images that run the stage and nothing else, and the shelf that their sealed files travel over."""

    def __init__(self, world):
        if not (world.kit.work / "kernel").is_dir():
            raise Skipped("there is no kernel to boot (measured_boot/run.sh)")
        for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("mksquashfs", "squashfs-tools"),
                                 ("mcopy", "mtools")):  # fmt: skip
            boot.need(program, package)
        self.world = world
        (world.folder / "tool").mkdir()
        source = world.folder / "tool.c"
        source.write_text(TOOL)
        run("cc", "-static", "-o", world.folder / "tool/tool", source)
        world.seal("vendor", "tool")
        self.shelf = world.folder / "shelf"
        self.shelf.mkdir()
        for asset in ("tool", "scans"):
            shutil.copy(world.folder / f"{asset}.sealed", self.shelf)
        handler = type("JobShelf", (Shelf,), {"folder": self.shelf})
        self.files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.files.serve_forever, daemon=True).start()
        with contextlib.closing(SoftwareTpm(world.folder / "guest")) as tpm:
            self.key = tpm.attestation_key(world.kit)
        self.image = self.build("guest-image", world.kit.programs / "pavise-agent")
        # IMA measures the code where it runs, unsealed: its owner lists it.
        digest = hashlib.sha256((world.folder / "tool/tool").read_bytes()).hexdigest()
        references = {"reference.json": (self.image / "reference.json").read_text(), "code.json": json.dumps({
            "pavise_reference_values": 1,
            "files": [{"path": TOOL_PATH, "digest": f"sha256:{digest}", "source": "vendor"}]})}  # fmt: skip
        policy = json.dumps({"pavise_appraisal_policy": 1, "required": ["tpm"], "tpm": {"attestation_keys": [self.key]},
                             "reference_values": list(references)})  # fmt: skip
        stage = ["purpose: a model for the clinic's scans", "modes: {measured: {policy: policy.json}}", "code: tool",
                 f"command: [{TOOL_PATH}]", "inputs: [scans]", "outputs:", "  tuned: {recipients: [lab]}",
                 "limits: {not_after: 2099-01-01T00:00:00Z, runs: 2}", "reattest_seconds: 600"]  # fmt: skip
        self.agreement = Agreement(world, world.sqlite, "guest-training", ("tool", "scans"), stage,
                                   {"policy.json": policy, **references})  # fmt: skip
        (self.shelf / "agreement.id").write_text(self.agreement.id + "\n")

    def close(self):
        self.files.shutdown()
        self.files.server_close()

    def build(self, name, agent):
        brokers = self.world.sqlite
        files = self.world.folder / f"{name}-files"
        (files / "tmp").mkdir(parents=True)  # where bubblewrap begins
        shelf = f"http://10.0.2.2:{self.files.server_port}"
        start = [
            "/usr/bin/pavise-agent", "run", "--json", "--agreement", f"{shelf}/agreement.id", "--stage", "train", "--broker",
            f"https://10.0.2.2:{brokers.port}", "--broker-certificate", brokers.pin,
            *[f"--asset={asset}={shelf}/{asset}.sealed" for asset in ("tool", "scans")],
            "--output", f"tuned={shelf}/tuned.sealed", "--provenance", f"{shelf}/provenance.json", "--evidence",
            f"{shelf}/evidence.cbor", "--storage", "64MiB", "--memory", "256MiB", "--", TOOL_PATH]  # fmt: skip
        directory, _ = self.world.kit.build(
            name, "--network", "10.0.2.15/24 10.0.2.2", "--program", f"{agent}=/usr/bin/pavise-agent", "--program",
            "/usr/bin/bwrap=/usr/bin/bwrap", "--start", " ".join(start), files=files)  # fmt: skip
        return directory

    def boot(self, image):
        """What the host wrote on its console; what it sent lies on the shelf."""
        for name in ("provenance.json", "evidence.cbor", "tuned.sealed"):
            (self.shelf / name).unlink(missing_ok=True)
        console = self.world.folder / f"{image.name}.console"
        done = subprocess.run(
            [sys.executable, boot.__file__, "--image", image, "--state", self.world.folder / "guest", "--output",
             self.world.folder / "serial", "--console", console, "--timeout", "400", "--network"],
            capture_output=True, text=True, check=False)  # fmt: skip
        text = console.read_text(errors="replace") if console.exists() else ""
        assert done.returncode == 0, f"the host did not end: {done.stderr}\n{text[-3000:]}"
        return text

    def job(self, name):
        """As its operator has it: what runs where is in the image's measured start command."""
        return Job(self.agreement, name, ["mode: measured", "outputs: {tuned: [lab]}", f"command: [{TOOL_PATH}]"])


def measured_host(world):
    """The host that boots has the agent alone; its operator's `pavise job collect` makes the result."""
    guest = world.guest
    console = guest.boot(guest.image)
    assert (guest.shelf / "provenance.json").exists(), console[-4000:]
    job = guest.job("booted")
    result = job.pavise("collect", guest.shelf)
    assert job.pavise("status")["step"] == "done"
    verified = check_result(job)
    assert verified["run"] == result["run"] and not verified["not_enforced"], verified
    kinds = guest.agreement.ledger()
    assert kinds.count("release") == 2 and kinds.count("output-deposited") == 1 and kinds[-1] == "run-ended", kinds
    tuned = guest.agreement.fetch(result["run"], "tuned", job.result / "outputs/tuned.sealed")
    labels = (world.folder / "scans/t10k-labels-idx1-ubyte").read_bytes()
    assert (tuned / "tuned").read_bytes() == bytes(byte ^ 0x20 for byte in labels)
    # What came over the network needs no trust.
    for name, reason in (("tuned.sealed", "content-mismatch"), ("evidence.cbor", "content-mismatch"),
                         ("provenance.json", "signature-invalid")):  # fmt: skip
        changed = guest.agreement.folder / f"with-another-{name}"
        shutil.copytree(guest.shelf, changed)
        content = bytearray((changed / name).read_bytes())
        content[-1 if name.endswith(".sealed") else len(content) // 2] ^= 1  # of what is sealed: a segment's
        (changed / name).write_bytes(content)
        told = guest.job(f"changed-{name}").pavise("collect", changed, expect=1)["findings"]
        assert told[0]["reason"] == reason, told


def measured_host_with_another_program(world):
    """One other executable in the image: no key, and nothing to collect."""
    guest = world.guest
    agent = world.folder / "changed-agent"
    with open(shutil.copy(world.kit.programs / "pavise-agent", agent), "ab") as program:
        program.write(b"another program")
    before = guest.agreement.ledger()
    console = guest.boot(guest.build("guest-image-changed", agent))
    assert '"measurement-mismatch"' in console, console[-3000:]
    told = json.dumps(world.call(world.sqlite, "clinic", "policy", "decisions", "--agreement", guest.agreement.id,
                                 "--refused"))  # fmt: skip
    assert "PCR 11" in told and "/usr/bin/pavise-agent" in told, told
    kinds = guest.agreement.ledger()[len(before):]
    assert set(kinds) == {"refusal"}, kinds
    told = guest.job("nothing").pavise("collect", guest.shelf, expect=1)["findings"]
    assert told[0]["reason"] in ("file-missing", "file-unreadable"), told


TESTS = [obfuscated_on_sqlite, two_brokers_on_postgresql, killed_in_training, lying_worker, changed_asset_bytes,
         another_trainer, superseded_agreement, modes_of_other_machines, measured_host, measured_host_with_another_program]  # fmt: skip


GUEST_TESTS = {"measured_host", "measured_host_with_another_program", "modes_of_other_machines"}


def main():
    kit = Kit(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
    only = set(sys.argv[3:])
    try:
        world = World(kit)
    except boot.Missing as missing:
        print(f"SKIP: all: {missing}")
        return 0
    # The first one measures what others need.
    tests = [test for test in TESTS
             if not only or test.__name__ in only or (test == TESTS[0] and only - GUEST_TESTS)]  # fmt: skip
    try:
        passed = run_tests(tests, world)
    finally:
        world.close()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
