"""Parts of the tests' stories: a software TPM, a shelf of sealed files."""

import http.server
import json
import pathlib
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import boot
from boot_test import Skipped

# Of appraisal policies, for machines without logs: the software TPM's.
NO_LOGS = {"event_log": False, "ima": False, "host_protections": False}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Shelf(http.server.BaseHTTPRequestHandler):
    """Serves and takes the files of one folder; nobody trusts it."""

    folder = None

    def _path(self):
        return self.folder / pathlib.PurePosixPath(self.path).name

    def do_GET(self):
        if not self._path().is_file():
            self.send_error(404)
            return
        content = self._path().read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self):
        self._path().write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class SoftwareTpm:
    """swtpm on a socket, with the state of a machine that boot.py boots."""

    def __init__(self, state):
        if not (state / "tpm").is_dir():
            boot.make_tpm(state)
        # A socket's path is short.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="story-tpm-"))
        self.state, self.path = state / "tpm", self.folder / "socket"
        self.tcti = f"swtpm:path={self.path}"
        self.device = ["--tcti", self.tcti]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [boot.need("swtpm", "swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={self.state}", "--server",
             f"type=unixio,path={self.path}", "--ctrl", f"type=unixio,path={self.path}.ctrl", "--flags",
             "not-need-init,startup-clear"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        for _ in range(200):
            if self.path.exists() or self.process.poll() is not None:
                break
            time.sleep(0.05)

    def restart(self):
        boot.stop(self.process)
        self.path.unlink(missing_ok=True)
        self.start()

    def close(self):
        boot.stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def attestation_key(self, kit):
        """Its name, as owners enrol it."""
        evidence, policy = self.folder / "evidence.cbor", self.folder / "policy.json"
        nonce = secrets.token_hex(32)
        kit.pavise("keygen", "-o", self.folder / "session.pem", "--force")
        kit.pavise("attest", "--tcti", self.tcti, "--no-event-log", "--no-ima-log", "--nonce", nonce, "--session-key",
                   self.folder / "session.pub", "-o", evidence)  # fmt: skip
        policy.write_text(json.dumps({
            "pavise_appraisal_policy": 1, "required": ["tpm"],
            "tpm": {"allow_unbound_key": True, **NO_LOGS},
        }))  # fmt: skip
        result = kit.pavise("appraise", "evidence", evidence, "--policy", policy, "--nonce", nonce)
        return result["result"]["submods"]["tpm"]["ear_attester_claims"]["attestation_key"]


def run_tests(tests, *arguments, prefix=""):
    """Each with `arguments`; prints a PASS, FAIL or SKIP line of each. Whether all but the skipped passed."""
    passed = True
    for test in tests:
        name = prefix + test.__name__.replace("_", " ")
        begin = time.monotonic()
        try:
            test(*arguments)
            print(f"PASS: {name} ({time.monotonic() - begin:.0f} s)", flush=True)
        except (boot.Missing, Skipped) as skipped:
            print(f"SKIP: {name}: {skipped}", flush=True)
        except Exception:  # noqa: BLE001 - a test's failure, whatever it is
            passed = False
            print(f"FAIL: {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
    return passed
