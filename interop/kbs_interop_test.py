#!/usr/bin/env python3
"""The key broker protocol against a client that shares no code with Pavise (kbs_client.py).

Usage: kbs_interop_test.py PAVISE [PATTERN]     only the cases whose name contains PATTERN

One line a case, "PASS: name" or "FAIL: name: why", "SKIP: name: why" where a program is missing, and a
summary. The client is first held against `jose`, which wraps secrets, and its evidence against
`pavise appraise evidence`; then it obtains a resource.
"""

import base64
import contextlib
import http.server
import json
import pathlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import kbs_client

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
SECRET = bytes(range(32))
AGREEMENT = "ab" * 32
CASES = []


class Skipped(Exception):
    pass


def case(*programs):
    def register(function):
        CASES.append((function.__name__.replace("_", " "), programs, function))
        return function

    return register


def jose_encrypt(jwk: dict, plain: bytes, folder: pathlib.Path) -> dict:
    """Flattened JWE made by `jose` (latchset)."""
    (folder / "plain").write_bytes(plain)
    (folder / "jwk").write_text(json.dumps({name: value for name, value in jwk.items() if name != "alg"}))
    template = {"protected": {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}}
    done = subprocess.run(["jose", "jwe", "enc", "-i", json.dumps(template), "-I", "plain", "-k", "jwk"], cwd=folder,
                          check=True, capture_output=True)
    message = json.loads(done.stdout)
    header = message.pop("header", {})  # jose puts the ephemeral key beside the protected header
    return {**message, "header": header} if header else message


class FakeBroker:
    """The protocol's four steps, with secrets wrapped by `jose`. Keeps what it was sent."""

    def __init__(self, folder: pathlib.Path):
        fake, self.folder = self, folder
        self.nonce = base64.b64encode(secrets.token_bytes(32)).decode()
        self.attestation, self.request = None, None

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, body, **headers):
                content = json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/kbs/v0/auth":
                    fake.request = body
                    self.answer(200, {"nonce": fake.nonce, "extra-params": ""},
                                Set_Cookie="kbs-session-id=one; Path=/")
                elif self.headers["Cookie"] == "kbs-session-id=one" and body["runtime-data"]["nonce"] == fake.nonce:
                    fake.attestation = body
                    self.answer(200, {"token": "e30.e30.AA"})
                else:
                    self.answer(401, {"type": "AttestationError", "detail": "no such session"})

            def do_GET(self):
                if fake.attestation is None or self.path != f"/kbs/v0/resource/{AGREEMENT}/train/weights":
                    self.answer(403, {"type": "PolicyDeny", "detail": "denied", "reason": "policy-denied"})
                else:
                    jwk = fake.attestation["runtime-data"]["tee-pubkey"]
                    self.answer(200, jose_encrypt(jwk, SECRET, fake.folder))

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@contextlib.contextmanager
def software_tpm(folder: pathlib.Path):
    """A swtpm on a unix socket; yields its TCTI."""
    state = folder / "tpm"
    state.mkdir()
    subprocess.run(["swtpm_setup", "--tpm2", "--tpm-state", state, "--pcr-banks", "sha256"], check=True,
                   capture_output=True)
    process = subprocess.Popen(
        ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", f"type=unixio,path={folder}/tpm.sock",
         "--ctrl", f"type=unixio,path={folder}/tpm.sock.ctrl", "--flags", "not-need-init,startup-clear"], stderr=subprocess.DEVNULL)
    try:
        # It listens on the second socket once it has the first.
        while not (folder / "tpm.sock.ctrl").exists() and process.poll() is None:
            pass
        yield f"swtpm:path={folder}/tpm.sock"
    finally:
        process.terminate()
        process.wait()


def expect_failure(kinds, call) -> None:
    try:
        call()
    except kinds:
        return
    raise AssertionError("accepted what must be refused")


# ---- the client itself ----


@case("jose")
def client_opens_what_jose_wrapped(_pavise, folder):
    for curve in CURVES.values():
        key = ec.generate_private_key(curve)
        message = jose_encrypt(kbs_client.jwk_of(key.public_key()), SECRET, folder)
        assert kbs_client.decrypt_jwe(message, key) == SECRET
        other = ec.generate_private_key(curve)
        expect_failure(keywrap.InvalidUnwrap, lambda: kbs_client.decrypt_jwe(message, other))
        for member in ("protected", "ciphertext", "tag", "iv", "encrypted_key"):
            text = message[member]
            changed = {**message, member: text[:10] + ("A" if text[10] != "A" else "B") + text[11:]}
            expect_failure((InvalidTag, keywrap.InvalidUnwrap, ValueError, KeyError),
                           lambda: kbs_client.decrypt_jwe(changed, key))


@case("jose")
def client_speaks_the_protocols_four_steps(_pavise, folder):
    with FakeBroker(folder) as broker:
        key = ec.generate_private_key(CURVES["P-256"])
        session = kbs_client.Session(broker.url, None, key)
        expect_failure(kbs_client.Refused, lambda: session.resource(AGREEMENT, "train", "weights"))
        nonce = session.auth("pavise", {"agreement": AGREEMENT, "stage": "train", "mode": "measured"})
        assert base64.b64encode(nonce).decode() == broker.nonce
        assert broker.request["version"] == "0.4.0"
        assert session.attest({"version": 1}) == "e30.e30.AA"
        assert session.resource(AGREEMENT, "train", "weights") == SECRET
        expect_failure(kbs_client.Refused, lambda: session.resource(AGREEMENT, "train", "other"))


# ---- its evidence ----


@case("swtpm", "swtpm_setup", "tpm2_quote")
def evidence_made_from_the_format_page_is_appraised(pavise, folder):
    policy = {"pavise_appraisal_policy": 1, "required": ["tpm"],
              "tpm": {"event_log": False, "ima": False, "host_protections": False, "allow_unbound_key": True}}
    (folder / "policy.json").write_text(json.dumps(policy))
    nonce = secrets.token_bytes(32)
    key = ec.generate_private_key(CURVES["P-384"])

    def appraise(evidence, for_nonce):
        (folder / "evidence.json").write_text(json.dumps(evidence))
        done = subprocess.run([pavise, "appraise", "evidence", "evidence.json", "--policy", "policy.json", "--nonce",
                               for_nonce.hex(), "--json"], cwd=folder, capture_output=True, text=True)
        result = json.loads(done.stdout)
        return done.returncode, [finding["reason"] for finding in result.get("findings", [])]

    with software_tpm(folder) as tcti:
        binding = kbs_client.binding_value("tpm", nonce, key.public_key(), [])
        part = kbs_client.tpm_part(tcti, binding, {})
        other_part = kbs_client.tpm_part(tcti, kbs_client.binding_value("tee", nonce, key.public_key(), []), {})
    good = kbs_client.composite(nonce, key.public_key(), [part])
    assert appraise(good, nonce) == (0, []), appraise(good, nonce)
    # Another challenge; another session key; a quote for another role.
    assert appraise(good, secrets.token_bytes(32))[0] == 1
    other_key = ec.generate_private_key(CURVES["P-384"]).public_key()
    assert appraise(kbs_client.composite(nonce, other_key, [part]), nonce)[0] == 1
    assert appraise(kbs_client.composite(nonce, key.public_key(), [other_part]), nonce)[0] == 1


@case("jose", "swtpm", "swtpm_setup", "tpm2_quote")
def client_as_a_program_attests_with_a_tpm(_pavise, folder):
    with software_tpm(folder) as tcti, FakeBroker(folder) as broker:
        command = [sys.executable, "-B", kbs_client.__file__, "--url", broker.url, "--agreement", AGREEMENT, "--stage",
                   "train", "--mode", "measured", "--tcti", tcti]
        done = subprocess.run([*command, "weights"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"weights {SECRET.hex()}\n"), done.stderr
        refused = subprocess.run([*command, "other"], capture_output=True, text=True)
        assert refused.returncode == 1 and "policy-denied" in refused.stderr, refused.stderr
    evidence = broker.attestation["tee-evidence"]["primary_evidence"]
    assert evidence["nonce"] == broker.nonce
    spki = serialization.load_der_public_key(base64.b64decode(evidence["session_key"]))
    jwk = broker.attestation["runtime-data"]["tee-pubkey"]
    assert {**kbs_client.jwk_of(spki), "alg": "ECDH-ES+A256KW"} == jwk


def main() -> int:
    pavise = pathlib.Path(sys.argv[1]).resolve()
    pattern = sys.argv[2] if len(sys.argv) > 2 else ""
    passed = failed = 0
    for name, programs, run in CASES:
        if pattern not in name:
            continue
        missing = [program for program in programs if shutil.which(program) is None]
        if missing:
            print(f"SKIP: {name}: not installed: {' '.join(missing)}", flush=True)
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="kbs_") as folder:
                run(pavise, pathlib.Path(folder))
        except Skipped as reason:
            print(f"SKIP: {name}: {reason}", flush=True)
        except Exception:  # noqa: BLE001: whatever it is, the case failed
            failed += 1
            print(f"FAIL: {name}: {' '.join(traceback.format_exc().split())}", flush=True)
        else:
            passed += 1
            print(f"PASS: {name}", flush=True)
    print(f"kbs interop: {passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
