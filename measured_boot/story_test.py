#!/usr/bin/env python3
"""The whole story: three owners, a broker, and a host that none of them trusts.

An owner of code, one of a model and one of data seal their assets and approve an agreement; a host runs the
stage. First this machine with a software TPM, then a measured host that boots in QEMU from an image, has
no disk of its own, and takes and gives sealed files over the network. Its output reaches its recipient when
the data's owner approved it, and the ledger and the provenance hold for owners who trust nobody's word. The
same image with one other executable gets no key, and every owner reads why.

Usage: story_test.py BIN WORK     BIN has pavise, pavise-agent and pavise-init; WORK a kernel/ (run.sh)
Prints PASS, FAIL or SKIP lines, one a test.
"""

import base64
import hashlib
import http.server
import json
import os
import pathlib
import secrets
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "interop"), str(ROOT / "measured_boot")]

from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: E402

import boot  # noqa: E402
from boot_test import TCTI, Kit, Skipped  # noqa: E402
from kbs_client import Refused, Session, composite, from_base64url, token_claims  # noqa: E402
from owner_client import Owner, unseal  # noqa: E402
from parts import NO_LOGS, Shelf, SoftwareTpm, free_port, run_tests  # noqa: E402

OWNERS = {"vendor": ("trainer", "code"), "lab": ("base", "model"), "clinic": ("scans", "data")}
COMMAND = "/pavise/assets/trainer/train"
# A program for machines without a shell: the output is the model followed by the data, each byte changed.
TRAINER = """
#include <stdio.h>
#include <unistd.h>
static int copy(const char* path, FILE* to, int change) {
  FILE* from = fopen(path, "rb");
  int c;
  if (!from) { perror(path); return 1; }
  while ((c = getc(from)) != EOF) putc(c ^ change, to);
  return fclose(from);
}
int main(int count, char** words) {
  if (count > 1) return words[1][0] == 'w' ? pause() : 1;
  FILE* to = fopen("/pavise/outputs/tuned", "wb");
  if (!to) { perror("tuned"); return 1; }
  return copy("/pavise/assets/base/weights.bin", to, 0) | copy("/pavise/assets/scans/scans.csv", to, 0x20) | fclose(to);
}
"""
WEIGHTS = bytes(range(256)) * 4000
SCANS = b"patient,finding\n17,none\n"
TUNED = WEIGHTS + bytes(byte ^ 0x20 for byte in SCANS)


class Story:
    """The owners, their sealed assets, the broker and the folder that sealed files travel through."""

    def __init__(self, kit):
        self.kit = kit
        self.folder = kit.work / "story"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.shelf = self.folder / "shelf"
        self.shelf.mkdir()
        handler = type("StoryShelf", (Shelf,), {"folder": self.shelf})
        self.files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.files.serve_forever, daemon=True).start()
        self._serve_broker()
        for name in OWNERS:
            kit.pavise("keygen", "-o", self.folder / f"{name}.pem")
            kit.pavise("keygen", "-o", self.folder / f"{name}-enc.pem")
        self.owners = {name: Owner(name, self.folder, self.url, self.certificate) for name in OWNERS}
        self._seal_assets()
        self.other = None

    def _serve_broker(self):
        self.certificate = self.folder / "tls.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", self.folder / "tls.key",
             "-out", self.certificate], check=True, capture_output=True)  # fmt: skip
        der = subprocess.run(["openssl", "x509", "-in", self.certificate, "-outform", "DER"], check=True,
                             capture_output=True).stdout  # fmt: skip
        self.pin = hashlib.sha256(der).hexdigest()
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        # The broker's machine, which owners appraise before they give it keys.
        self.broker_tpm = SoftwareTpm(self.folder / "broker-machine")
        self.broker_policy = self.folder / "broker-policy.json"
        self.broker_policy.write_text(json.dumps({
            "pavise_appraisal_policy": 1, "required": ["tpm"],
            "tpm": {"attestation_keys": [self.broker_tpm.attestation_key(self.kit)], **NO_LOGS},
        }))  # fmt: skip
        configuration = self.folder / "broker.json"
        configuration.write_text(json.dumps({
            "pavise_broker": 1, "name": "broker.test/story", "listen": f"127.0.0.1:{self.port}", "metrics": "",
            "certificate": str(self.certificate), "private_key": str(self.folder / "tls.key"),
            "sqlite": str(self.folder / "broker.db"), "root_key": str(self.folder / "root_key.json"),
            "tpm": self.broker_tpm.tcti, "attest": True, "attest_logs": False,
        }))  # fmt: skip
        self.kit.pavise("broker", "init", "--config", configuration)
        self.start_broker()

    def start_broker(self):
        with open(self.folder / "broker.log", "ab") as log:
            self.broker = subprocess.Popen(
                [self.kit.programs / "pavise", "broker", "serve", "--config", self.folder / "broker.json"],
                stdout=log, stderr=log)  # fmt: skip
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.broker.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError("no broker:\n" + (self.folder / "broker.log").read_text()[-2000:])

    def close(self):
        self.files.shutdown()
        boot.stop(self.broker)
        self.broker_tpm.close()

    def _seal_assets(self):
        for folder in ("trainer", "base", "scans"):
            (self.folder / folder).mkdir()
        source = self.folder / "trainer.c"
        source.write_text(TRAINER)
        subprocess.run(["cc", "-static", "-o", self.folder / "trainer/train", source], check=True)
        (self.folder / "base/weights.bin").write_bytes(WEIGHTS)
        (self.folder / "scans/scans.csv").write_bytes(SCANS)
        self.sealed = {}
        for owner, (asset, _) in OWNERS.items():
            self.kit.pavise("sign", self.folder / asset, "--private-key", self.folder / f"{owner}.pem", "--signature",
                            self.folder / f"{asset}.sig")  # fmt: skip
            result = self.kit.pavise(
                "seal", self.folder / asset, "-o", self.shelf / f"{asset}.sealed", "--signature",
                self.folder / f"{asset}.sig", "--recipient", self.folder / f"{owner}-enc.pub")  # fmt: skip
            self.sealed[asset] = result["asset_id"]

    def agree(self, name, policy, references, published=None, amd_authorities=None, words=(),
              reattest_seconds=600):
        """Version 1 of an agreement under that policy for TPMs, and where AMD's authorities are given, one for
        confidential guests, approved 3 of 3, with all keys deposited; its id, which hosts read from the shelf."""
        folder = self.folder / name
        folder.mkdir()
        for path in references:
            shutil.copyfile(path, folder / path.name)
        (folder / "policy.json").write_text(json.dumps({
            "pavise_appraisal_policy": 1, "required": ["tpm"], "tpm": policy,
            **({"reference_values": [path.name for path in references]} if references else {}),
        }))  # fmt: skip
        modes = ["      measured: {policy: policy.json}"]
        if amd_authorities is not None:
            (folder / "trust/amd").mkdir(parents=True)
            shutil.copyfile(amd_authorities, folder / "trust/amd/authorities.pem")
            (folder / "tee.json").write_text(json.dumps({"pavise_appraisal_policy": 1, "required": ["tee"]}))
            modes += ["      tee: {policy: tee.json, trust: trust}"]
        for owner in OWNERS:
            for suffix in (".pub", "-enc.pub"):
                shutil.copyfile(self.folder / f"{owner}{suffix}", folder / f"{owner}{suffix}")
        for asset, _ in OWNERS.values():
            shutil.copyfile(self.folder / f"{asset}.sig", folder / f"{asset}.sig")
        lines = [f"name: {name}", "stakeholders:"]
        lines += [f"  {owner}: {{signing_key: {owner}.pub, encryption_key: {owner}-enc.pub}}" for owner in OWNERS]
        lines += ["changes: {approvals: 3, of: [vendor, lab, clinic]}", "assets:"]
        lines += [f"  {asset}: {{kind: {kind}, owner: {owner}, signature: {asset}.sig, sealed: {self.sealed[asset]}}}"
                  for owner, (asset, kind) in OWNERS.items()]  # fmt: skip
        lines += ["stages:", "  train:", "    purpose: a model for the clinic's scans",
                  "    modes:", *modes, "    code: trainer",
                  f"    command: [{', '.join([COMMAND, *words])}]", "    inputs: [base, scans]", "    outputs:",
                  "      tuned: {recipients: [lab], approvals: [clinic]}",
                  "    limits: {not_after: 2099-01-01T00:00:00Z, runs: 2}", f"    reattest_seconds: {reattest_seconds}",
                  "    broker_grace_seconds: 60"]  # fmt: skip
        yaml = folder / "agreement.yaml"
        yaml.write_text("\n".join(lines) + "\n")
        agreement = self.call("vendor", "policy", "propose", yaml, "-o", folder / "proposal.json")["digest"]
        for number, owner in enumerate(OWNERS):
            left = self.call(owner, "policy", "approve", folder / "proposal.json")["broker"]["missing"]
            assert len(left) == len(OWNERS) - number - 1, left
        for owner, (asset, _) in OWNERS.items():
            if owner == "clinic":  # with a program of its own
                self.owners[owner].deposit(agreement, asset, self.shelf / f"{asset}.sealed")
                continue
            self.deposit(owner, agreement, self.broker_policy)
        (self.shelf / (published or f"{name}.id")).write_text(agreement + "\n")
        return agreement

    def call(self, owner, *words, expect=0):
        """What an owner asks of the broker with pavise."""
        return self.kit.pavise(*words, "--broker", self.url, "--broker-ca", self.certificate, "--private-key",
                               self.folder / f"{owner}.pem", expect=expect)  # fmt: skip

    def deposit(self, owner, agreement, policy, expect=0):
        asset, _ = OWNERS[owner]
        return self.call(
            owner, "broker", "deposit", self.shelf / f"{asset}.sealed", "--agreement", agreement, "--asset", asset,
            "--encryption-key", self.folder / f"{owner}-enc.pem", "--policy", policy, expect=expect)  # fmt: skip

    def check_accepted(self, agreement, provenance, sealed_output):
        """What owners do after a run: approve the output, receive it, check ledger and provenance."""
        statement = check_provenance(provenance, self.owners["lab"].keys()["signing_key"])
        built = statement["predicate"]["buildDefinition"]
        assert built["externalParameters"]["agreement"] == agreement, built
        used = {each["name"]: each["annotations"]["sealed"] for each in built["resolvedDependencies"]}
        assert used == self.sealed, used
        (subject,) = statement["subject"]
        assert subject["digest"]["sha256"] == hashlib.sha256(sealed_output.read_bytes()).hexdigest(), subject

        (run,) = self.owners["clinic"].read(agreement, "runs")["runs"]
        (output,) = run["outputs"]
        assert run["run"] == statement["predicate"]["runDetails"]["metadata"]["invocationId"], run
        assert run["state"] == "ended", run
        assert output == {"output": "tuned", "sealed": subject["annotations"]["sealed"]}, run
        # Nobody has approved it yet, and the vendor is no recipient at any time.
        lab, clinic, vendor = (self.owners[name] for name in ("lab", "clinic", "vendor"))
        refused_call(lambda: lab.output_key(agreement, run["run"], "tuned"))
        other_run = secrets.token_hex(16)
        refused_call(lambda: clinic.approve_output(agreement, other_run, "tuned", output["sealed"], ["lab"]))
        of_run = ["--agreement", agreement, "--run", run["run"], "--name", "tuned"]
        self.call("clinic", "policy", "approve-output", *of_run, "--recipient", "lab", "--sealed", output["sealed"])
        refused_call(lambda: vendor.output_key(agreement, run["run"], "tuned"))
        key = lab.output_key(agreement, run["run"], "tuned")
        assert unseal(sealed_output, key) == {"tuned": TUNED}
        fetched = self.folder / f"fetched-{run['run']}"
        self.call("lab", "broker", "fetch-output", sealed_output, *of_run, "--encryption-key",
                  self.folder / "lab-enc.pem", "-o", fetched)  # fmt: skip
        assert [(path.name, path.read_bytes()) for path in fetched.iterdir()] == [("tuned", TUNED)]
        assert TUNED not in sealed_output.read_bytes() and SCANS not in sealed_output.read_bytes()
        kinds = self.check_ledger(agreement)
        self.check_provenance(agreement, provenance, sealed_output)
        return kinds

    def check_provenance(self, agreement, provenance, sealed_output):
        """What an owner asks of the statement without a network, and what of it is refused."""
        folder = self.folder / f"of-{agreement[:16]}"
        for name in (agreement, self.elsewhere()):
            self.call("clinic", "policy", "show", "--agreement", name, "-o", folder / name)
        broker_key, changed = folder / "broker.pub", folder / "changed"
        self.kit.pavise("broker", "status", "--broker", self.url, "--broker-ca", self.certificate,
                        "--signing-key-out", broker_key)  # fmt: skip
        proposal = "001-agreement.json"

        def verify(expect=0, bundle=self.folder / "clinic-ledger.json", statement=provenance,
                   version=folder / agreement / proposal, output=sealed_output):  # fmt: skip
            return self.kit.pavise(
                "ledger", "verify", bundle, "--log-key", self.folder / "ledger.key", "--provenance", statement,
                "--broker-key", broker_key, "--agreement", version, "--output", f"tuned={output}", expect=expect)  # fmt: skip

        result = verify()["provenance"]
        assert result["agreement"] == agreement and result["outputs"][0]["file_verified"], result
        assert {each["name"]: each["asset_id"] for each in result["inputs"]} == self.sealed, result
        changed.write_bytes(sealed_output.read_bytes() + b"more")
        refused = [verify(1, output=changed)]
        text = bytearray(provenance.read_bytes())
        text[len(text) // 2] ^= 1
        changed.write_bytes(text)
        refused.append(verify(1, statement=changed))
        refused.append(verify(1, version=folder / self.elsewhere() / proposal))
        other = folder / "other-ledger.json"
        self.call("clinic", "broker", "show", "--agreement", self.elsewhere(), "--what", "ledger", "-o", other)
        refused.append(verify(1, bundle=other))
        reasons = [each["findings"][0]["reason"] for each in refused]
        assert (reasons[0], reasons[2], reasons[3]) == ("content-mismatch", "binding-mismatch", "evidence-missing"), reasons

    def elsewhere(self):
        """Another agreement of the same owners: nothing was done under it."""
        if not self.other:
            self.other = self.agree("elsewhere", {"allow_unbound_key": True, **NO_LOGS}, [])
        return self.other

    def check_ledger(self, agreement):
        """Every owner's bundle verifies; its kinds of entries."""
        key_file = self.folder / "ledger.key"
        key_file.write_text(self.owners["lab"].call("GET", "/pavise/v1/broker", signed=False)["ledger_key"] + "\n")
        kinds = []
        for owner in OWNERS:
            bundle = self.folder / f"{owner}-ledger.json"
            self.call(owner, "broker", "show", "--agreement", agreement, "--what", "ledger", "-o", bundle)
            result = self.kit.pavise("ledger", "verify", bundle, "--log-key", key_file, "--complete")
            kinds = [entry["entry"]["kind"] for entry in result["entries"]]
            text = bundle.read_bytes()
            changed = self.folder / "changed-ledger.json"
            changed.write_bytes(text.replace(b"clinic", b"somebody else").replace(b"scans", b"other"))
            assert changed.read_bytes() != text
            self.kit.pavise("ledger", "verify", changed, "--log-key", key_file, expect=1)
        return kinds

    def check_refused(self, agreement, *wanted, runs=0):
        """The last decision began no run, and each owner reads each reason in it with words of the item."""
        for owner in self.owners.values():
            decision = owner.read(agreement, "decisions")["decisions"][-1]["decision"]["decision"]
            assert not decision["allowed"], decision
            failed = [rule for rule in decision["rules"] if not rule["passed"]]
            findings = [(rule["reason"], rule["item"], rule["remedy"]) for rule in failed]
            for reason, item in wanted:
                assert any(reason == seen and item in of and remedy for seen, of, remedy in findings), (item, findings)
            assert len(owner.read(agreement, "runs")["runs"]) == runs
            told = json.dumps(self.call(owner.name, "policy", "decisions", "--agreement", agreement, "--refused"))
            assert all(reason in told and item in told for reason, item in wanted), told
        return findings


def refused_call(call):
    try:
        call()
    except Refused as refused:
        assert refused.status in (401, 403, 404, 409), refused
        return
    raise AssertionError("was not refused")


def check_provenance(path, broker_key):
    """The statement, where the session's key signed it and the broker's token confirms that key."""
    signed = json.loads(path.read_bytes())
    text = base64.b64decode(signed["payload"])
    statement = json.loads(text)
    details = statement["predicate"]["runDetails"]
    token = details["byproducts"][1]["annotations"]["token"]
    header, claims, signature = token.split(".")
    raw = from_base64url(signature)
    half = len(raw) // 2
    broker_key.verify(
        utils.encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:])),
        f"{header}.{claims}".encode(), ec.ECDSA(hashes.SHA256() if half == 32 else hashes.SHA384()))  # fmt: skip
    jwk = token_claims(token)["cnf"]["jwk"]
    assert jwk["crv"] == "P-256"
    session = ec.EllipticCurvePublicNumbers(*(int.from_bytes(from_base64url(jwk[name])) for name in "xy"),
                                            ec.SECP256R1()).public_key()  # fmt: skip
    kind = signed["payloadType"].encode()
    session.verify(base64.b64decode(signed["signatures"][0]["sig"]),
                   b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(text), text), ec.ECDSA(hashes.SHA256()))  # fmt: skip
    return statement


def run_words(story, folder, agreement, device, *command):
    """A run of the stage on this machine, with the evidence of that device."""
    return ["run", "--agreement", agreement, "--stage", "train", "--broker", story.url, "--broker-ca",
            story.certificate, *device, "--no-event-log", "--no-ima-log", "--output",
            f"tuned={folder / 'tuned.sealed'}", "--provenance", folder / "provenance.json", "--storage", "64MiB", "--accept", "memory-limit", "--accept",
            "swap", *[word for asset, _ in OWNERS.values()
                      for word in ("--asset", f"{asset}={story.shelf / (asset + '.sealed')}")],
            "--", *command]  # fmt: skip


def this_machine(kit, story):
    folder = story.folder / "local"
    folder.mkdir()
    tpm = SoftwareTpm(folder / "machine")
    try:
        agreement = story.agree("local-story", {"attestation_keys": [tpm.attestation_key(kit)], **NO_LOGS}, [])
        # Another command than the agreed one, another machine: no run begins.
        refused = kit.pavise(*run_words(story, folder, agreement, tpm.device, "/usr/bin/env"), expect=1)
        assert refused["findings"][0]["reason"] == "policy-denied", refused
        other = SoftwareTpm(folder / "other")
        try:
            # Nor does a broker get a key that runs where its owners do not expect it.
            policy = json.loads(story.broker_policy.read_text())
            policy["tpm"]["attestation_keys"] = [other.attestation_key(kit)]
            (folder / "other-policy.json").write_text(json.dumps(policy))
            refused = story.deposit("vendor", agreement, folder / "other-policy.json", expect=1)
            assert "binding-mismatch" in [each["reason"] for each in refused["findings"]], refused
            kit.pavise(*run_words(story, folder, agreement, other.device, COMMAND), expect=1)
        finally:
            other.close()
        story.check_refused(agreement, ("binding-mismatch", "AK "))
        assert not (folder / "provenance.json").exists()

        result = kit.pavise(*run_words(story, folder, agreement, tpm.device, COMMAND))
        assert result["outputs"]["tuned"]["sealed"] == str(folder / "tuned.sealed"), result
        kinds = story.check_accepted(agreement, folder / "provenance.json", folder / "tuned.sealed")
        print("      ledger:", " ".join(kinds))
    finally:
        tpm.close()


def withdrawal(kit, story):
    """A run goes on when the broker's machine fails and starts again, and ends when an owner withdraws."""
    folder = story.folder / "withdrawal"
    folder.mkdir()
    clinic = story.owners["clinic"]

    def wait_for(what):
        for _ in range(300):
            if what():
                return
            time.sleep(0.2)
        raise AssertionError(f"waited in vain: {clinic.read(agreement, 'runs')}")

    def runs():
        return clinic.read(agreement, "runs")["runs"]

    tpm, process = SoftwareTpm(folder / "machine"), None
    try:
        agreement = story.agree("waiting-story", {"attestation_keys": [tpm.attestation_key(kit)], **NO_LOGS}, [],
                                words=["wait"], reattest_seconds=10)  # fmt: skip
        words = list(map(str, run_words(story, folder, agreement, tpm.device, COMMAND, "wait")))
        process = subprocess.Popen([kit.programs / "pavise", words[0], "--json", *words[1:]], stdout=subprocess.PIPE,
                                   text=True)  # fmt: skip
        wait_for(runs)
        begun = runs()[0]["appraised"]
        wait_for(lambda: runs()[0]["appraised"] != begun)  # the command runs
        story.broker.kill()
        story.broker.wait()
        story.broker_tpm.restart()
        story.start_broker()
        restarted = runs()[0]["appraised"]
        wait_for(lambda: runs()[0]["appraised"] != restarted)
        assert process.poll() is None and runs()[0]["state"] == "open", runs()

        story.call("clinic", "policy", "withdraw", "--agreement", agreement, "--asset", "scans")
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1, (process.returncode, output)
        print("      the host is told:", *[each["reason"] for each in json.loads(output)["findings"]])
    finally:
        if process is not None:
            boot.stop(process)
        tpm.close()
    assert runs()[0]["state"] == "revoked" and not runs()[0]["outputs"], runs()
    assert not (folder / "provenance.json").exists() and not (folder / "tuned.sealed").exists()
    kinds = story.check_ledger(agreement)
    assert "withdrawal" in kinds and "revocation" in kinds and "reattested" in kinds, kinds


def host_image(kit, story, name, agent):
    """An image that runs the stage and nothing else, for the agreement that the shelf's host.id names."""
    files = story.folder / f"{name}-files"
    (files / "tmp").mkdir(parents=True)  # where bubblewrap begins
    shelf = f"http://10.0.2.2:{story.files.server_port}"
    start = [
        "/usr/bin/pavise-agent", "run", "--json", "--agreement", f"{shelf}/host.id", "--stage", "train", "--broker",
        f"https://10.0.2.2:{story.port}", "--broker-certificate", story.pin, "--output", f"tuned={shelf}/tuned.sealed",
        "--provenance", f"{shelf}/provenance.json", "--storage", "64MiB", "--memory", "256MiB",
        *[word for asset, _ in OWNERS.values() for word in ("--asset", f"{asset}={shelf}/{asset}.sealed")],
        "--", COMMAND]  # fmt: skip
    directory, _ = kit.build(
        name, "--network", "10.0.2.15/24 10.0.2.2", "--program", f"{agent}=/usr/bin/pavise-agent", "--program",
        "/usr/bin/bwrap=/usr/bin/bwrap", "--start", " ".join(start), files=files)  # fmt: skip
    return directory


def boot_host(story, image):
    """What the host wrote on its console."""
    for name in ("provenance.json", "tuned.sealed"):
        (story.shelf / name).unlink(missing_ok=True)
    console = story.folder / f"{image.name}.console"
    console.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, boot.__file__, "--image", image, "--state", story.folder / "machine", "--output",
         story.folder / "serial", "--console", console, "--timeout", "400", "--network"],
        capture_output=True, text=True, check=False)  # fmt: skip
    text = console.read_text(errors="replace") if console.exists() else ""
    if done.returncode != 0:
        raise AssertionError(f"the host did not end: {done.returncode} {done.stderr}\n{text[-3000:]}")
    return text


def boot_without_result(story, image):
    console = boot_host(story, image)
    assert not (story.shelf / "provenance.json").exists() and not (story.shelf / "tuned.sealed").exists()
    return console


def measured_host(kit, story):
    image = host_image(kit, story, "story-image", kit.programs / "pavise-agent")
    tpm = SoftwareTpm(story.folder / "machine")
    try:
        key = tpm.attestation_key(kit)
    finally:
        tpm.close()
    # IMA measures the code where it runs, unsealed: its owner lists it.
    code = story.folder / "code.json"
    digest = hashlib.sha256((story.folder / "trainer/train").read_bytes()).hexdigest()
    code.write_text(json.dumps({"pavise_reference_values": 1, "files": [
        {"path": COMMAND, "digest": f"sha256:{digest}", "source": "vendor"}]}))  # fmt: skip
    story.image, story.key = image, key
    story.host = story.agree("host", {"attestation_keys": [key]}, [image / "reference.json", code])
    console = boot_host(story, image)
    if not (story.shelf / "provenance.json").exists():
        decisions = story.owners["clinic"].read(story.host, "decisions")["decisions"]
        raise AssertionError(f"no provenance\n{console[-4000:]}\n{json.dumps(decisions)[-6000:]}")
    kinds = story.check_accepted(story.host, story.shelf / "provenance.json", story.shelf / "tuned.sealed")
    print("      ledger:", " ".join(kinds))


def unlisted_code(_, story):
    """The same host under an agreement whose reference values lack the code: nothing comes out."""
    agreement = story.agree("host-unlisted", {"attestation_keys": [story.key]}, [story.image / "reference.json"],
                            published="host.id")  # fmt: skip
    console = boot_without_result(story, story.image)
    assert '"measurement-unknown"' in console, console[-3000:]
    story.check_refused(agreement, ("measurement-unknown", COMMAND), runs=1)
    (run,) = story.owners["clinic"].read(agreement, "runs")["runs"]
    assert run["state"] == "revoked" and not run["outputs"], run
    assert not {"output-deposited", "run-ended"} & set(story.check_ledger(agreement))


def changed_executable(kit, story):
    agent = story.folder / "changed-agent"
    shutil.copyfile(kit.programs / "pavise-agent", agent)
    agent.chmod(0o755)
    with open(agent, "ab") as program:
        program.write(b"another program")
    image = host_image(kit, story, "story-image-changed", agent)
    runs = len(story.owners["clinic"].read(story.host, "runs")["runs"])
    (story.shelf / "host.id").write_text(story.host + "\n")
    console = boot_without_result(story, image)
    assert '"measurement-mismatch"' in console, console[-3000:]
    story.check_refused(story.host, ("measurement-mismatch", "PCR 11"),
                        ("measurement-mismatch", "/usr/bin/pavise-agent"), runs=runs)  # fmt: skip
    # No key left: the ledger, which every owner verifies, ends with the refusal.
    assert story.check_ledger(story.host)[-1] == "refusal"


def recorded_guest(kit, story):
    """The stage's other mode, asked for with the report of a real SEV-SNP guest that somebody recorded: genuine, and
    for no challenge of this broker's. (That guest also allows debugging.)"""
    vectors = pathlib.Path(os.environ.get("PAVISE_VECTORS", ROOT / "../shared/vectors")) / "attest/snp"
    if not vectors.is_dir():
        raise Skipped("no ../shared/vectors: no recorded report")
    agreement = story.agree("guest-story", {"allow_unbound_key": True, **NO_LOGS}, [],
                            amd_authorities=vectors / "ask_ark_milan.pem")  # fmt: skip
    key = ec.generate_private_key(ec.SECP256R1())
    session = Session(story.url, str(story.certificate), key)
    nonce = session.auth("pavise", {"agreement": agreement, "stage": "train", "mode": "tee"})
    vcek = (vectors / "milan_vcek.der").read_bytes()
    items = {"report": (vectors / "milan_report.bin").read_bytes(),
             "certificates": ssl.DER_cert_to_PEM_cert(vcek).encode()}  # fmt: skip
    part = {"format": "amd-sev-snp", "items": {name: base64.b64encode(item).decode() for name, item in items.items()}}
    evidence = composite(nonce, key.public_key(), [part])
    refused_call(lambda: session.attest(evidence))
    for asset, _ in OWNERS.values():
        refused_call(lambda: session.resource(agreement, "train", asset))  # noqa: B023 - called at once
    snp = ("nonce-mismatch", "report data"), ("platform-insecure", "SNP report")
    assert len(story.check_refused(agreement, *snp)) == 2

    # As pavise run collects it, from a folder that shows what configfs-tsm shows, whatever it is asked to sign. Of
    # the TDX quote's platform there is no collateral in the agreement's trust folder.
    quote = (vectors.parent / "tdx/cos-113-tdx-quote.dat").read_bytes()
    table = bytes.fromhex("63da758de6644564adc5f4b93be8accd") + struct.pack("<II", 48, len(vcek)) + bytes(24) + vcek
    guests = {"sev_guest": (items["report"], table, snp),
              "tdx_guest": (quote, b"", [("nonce-mismatch", "report data"), ("evidence-missing", "TCB info")])}  # fmt: skip
    for provider, (report, auxiliary, findings) in guests.items():
        request = story.folder / provider
        request.mkdir()
        for name, content in {"inblob": b"", "outblob": report, "auxblob": auxiliary,
                              "provider": provider.encode() + b"\n", "generation": b"1\n"}.items():  # fmt: skip
            (request / name).write_bytes(content)
        guest = ["--no-tpm", "--tee", "--tsm-report", request, "--mode", "tee"]
        kit.pavise(*run_words(story, request, agreement, guest, COMMAND), expect=1)
        assert len((request / "inblob").read_bytes()) == 64
        story.check_refused(agreement, *findings)
        assert not (request / "provenance.json").exists()
    # The same agreement in its other mode, for a TPM of anybody's.
    tpm = SoftwareTpm(story.folder / "guest-machine")
    try:
        kit.pavise(*run_words(story, story.folder / "guest-machine", agreement, tpm.device, COMMAND))
    finally:
        tpm.close()


TESTS = [this_machine, withdrawal, recorded_guest, measured_host, unlisted_code, changed_executable]


def main():
    kit = Kit(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
    only = sys.argv[3:]
    story = Story(kit)
    try:
        tests = [test for test in TESTS if not only or test.__name__ in only]
        passed = run_tests(tests, kit, story, prefix="story: ")
    finally:
        story.close()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
