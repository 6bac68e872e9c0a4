#!/usr/bin/env python3
"""A client of the key broker protocol that shares no code with Pavise.

Written from the published protocol text (Confidential Containers, "KBS Attestation Protocol"), the RFCs
that it names (7515 to 7518) and docs/formats/evidence.md. It attests with a TPM through tpm2-tools, or
with evidence from a file, and prints the secret that the broker releases.

  kbs_client.py --url https://127.0.0.1:8443 --ca ca.pem --agreement ID --stage train --mode measured
      (--tcti TCTI [--event-log FILE] [--ima-log FILE] | --evidence FILE --key session.pem)
      [--save-evidence FILE] [--save-nonce FILE] ASSET...

Each secret is printed as a line "ASSET HEX". Exit 0: all were released. 1: the broker refused; its reasons
are on stderr. 2: usage. 3: anything else.
"""

import argparse
import base64
import hashlib
import http.client
import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.parse

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

VERSION = "0.4.0"
PCRS = range(15)


class Refused(Exception):
    """The broker said no: HTTP status and problem details (RFC 7807)."""

    def __init__(self, status: int, problem: dict):
        self.status, self.problem = status, problem
        super().__init__(f"HTTP {status}: {problem.get('detail', problem)}")


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    if "=" in text:
        raise ValueError("JOSE's base64url has no padding")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def canonical(value) -> bytes:
    """RFC 8785 for what occurs here: ASCII names, no numbers that are not integers."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


# ---- keys and JWE ----


def jwk_of(key: ec.EllipticCurvePublicKey) -> dict:
    numbers, size = key.public_numbers(), (key.curve.key_size + 7) // 8
    return {
        "kty": "EC",
        "crv": {256: "P-256", 384: "P-384", 521: "P-521"}[key.curve.key_size],
        "x": base64url(numbers.x.to_bytes(size, "big")),
        "y": base64url(numbers.y.to_bytes(size, "big")),
    }


def decrypt_jwe(message: dict, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Flattened JWE (RFC 7516, 7.2.2) with ECDH-ES+A256KW (RFC 7518, 4.6) and A256GCM (5.3)."""
    header = json.loads(from_base64url(message["protected"]))
    if header["alg"] != "ECDH-ES+A256KW" or header["enc"] != "A256GCM" or "crit" in header:
        raise ValueError(f"not the algorithms that were asked for: {header}")
    epk = header["epk"] if "epk" in header else message["header"]["epk"]  # it need not be protected
    if epk["crv"] != jwk_of(key.public_key())["crv"]:
        raise ValueError("the ephemeral key is on another curve")
    peer = ec.EllipticCurvePublicNumbers(
        int.from_bytes(from_base64url(epk["x"]), "big"),
        int.from_bytes(from_base64url(epk["y"]), "big"),
        key.curve,
    ).public_key()
    fields = [header["alg"].encode(), from_base64url(header.get("apu", "")), from_base64url(header.get("apv", ""))]
    other_info = b"".join(len(field).to_bytes(4, "big") + field for field in fields) + (256).to_bytes(4, "big")
    shared = key.exchange(ec.ECDH(), peer)
    wrapping_key = ConcatKDFHash(hashes.SHA256(), length=32, otherinfo=other_info).derive(shared)
    content_key = keywrap.aes_key_unwrap(wrapping_key, from_base64url(message["encrypted_key"]))
    covered = message["protected"] + ("." + message["aad"] if "aad" in message else "")
    sealed = from_base64url(message["ciphertext"]) + from_base64url(message["tag"])
    return AESGCM(content_key).decrypt(from_base64url(message["iv"]), sealed, covered.encode())


# ---- evidence (docs/formats/evidence.md) ----


def binding_value(role: str, nonce: bytes, key: ec.EllipticCurvePublicKey, collected: list[bytes]) -> bytes:
    return hashlib.sha256(canonical({
        "binding": "pavise-1",
        "evidence": [digest.hex() for digest in collected],
        "nonce": nonce.hex(),
        "role": role,
        "session_key": jwk_of(key),
    })).digest()


def tpm_part(tcti: str, qualifying_data: bytes, logs: dict[str, pathlib.Path]) -> dict:
    """A quote by a new attestation key, made with tpm2-tools."""
    with tempfile.TemporaryDirectory(prefix="kbs_client_") as folder:
        folder = pathlib.Path(folder)
        environment = {**os.environ, "TPM2TOOLS_TCTI": tcti}

        def tool(name: str, *arguments: str) -> None:
            done = subprocess.run([name, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{name}: {done.stderr.strip()}")

        pcrs = "sha256:" + ",".join(map(str, PCRS))
        tool("tpm2_createek", "-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub")
        tool("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa",
             "-u", "ak.pub", "-f", "tss")
        tool("tpm2_flushcontext", "-t")
        tool("tpm2_quote", "-c", "ak.ctx", "-l", pcrs, "-g", "sha256", "-q", qualifying_data.hex(), "-m", "quote",
             "-s", "signature", "-f", "tss")
        tool("tpm2_pcrread", pcrs, "-o", "pcrs")
        tool("tpm2_flushcontext", "-t")
        values = (folder / "pcrs").read_bytes()
        if len(values) != 32 * len(PCRS):
            raise RuntimeError(f"{len(values)} bytes of PCR values")
        items = {
            "quote": (folder / "quote").read_bytes(),
            "signature": (folder / "signature").read_bytes(),
            "attestation_key": (folder / "ak.pub").read_bytes(),
            # Registers in the order of their numbers, not of their names.
            "pcr_values": json.dumps(
                {"sha256": {str(i): values[32 * i:32 * i + 32].hex() for i in PCRS}}, separators=(",", ":")
            ).encode(),
        }
    for name, path in logs.items():
        items[name] = path.read_bytes()
    return {
        "format": "tpm-2.0",
        "items": {name: base64.b64encode(content).decode() for name, content in items.items()},
    }


def composite(nonce: bytes, key: ec.EllipticCurvePublicKey, parts: list[dict]) -> dict:
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        "version": 1,
        "nonce": base64.b64encode(nonce).decode(),
        "session_key": base64.b64encode(spki).decode(),
        "parts": parts,
    }


# ---- the protocol ----


class Session:
    """Request, challenge, attestation, response; then resources, under the session's cookie."""

    def __init__(self, url: str, authority: str | None, key: ec.EllipticCurvePrivateKey):
        parsed = urllib.parse.urlsplit(url)
        if parsed.scheme == "https":
            context = ssl.create_default_context(cafile=authority)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            self.connection = http.client.HTTPSConnection(parsed.hostname, parsed.port, timeout=60, context=context)
        elif parsed.scheme == "http" and parsed.hostname in ("127.0.0.1", "::1"):
            self.connection = http.client.HTTPConnection(parsed.hostname, parsed.port, timeout=60)
        else:
            raise ValueError(f"not an address of a broker: {url}")
        self.key, self.cookie = key, None

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.cookie is not None:
            headers["Cookie"] = f"kbs-session-id={self.cookie}"
        text = json.dumps(body) if body is not None else None
        self.connection.request(method, path, body=text, headers=headers)
        response = self.connection.getresponse()
        content = response.read()
        for value in response.headers.get_all("Set-Cookie", []):
            if found := re.match(r"kbs-session-id=([^;]+)", value):
                self.cookie = found[1]
        if response.status != 200:
            try:
                problem = json.loads(content)
            except ValueError:
                problem = {"detail": content.decode(errors="replace")[:500]}
            raise Refused(response.status, problem)
        return json.loads(content)

    def auth(self, tee: str, extra_params: dict) -> bytes:
        challenge = self.call("POST", "/kbs/v0/auth", {"version": VERSION, "tee": tee, "extra-params": extra_params})
        self.nonce = challenge["nonce"]
        if self.cookie is None:
            raise ValueError("no session cookie came with the challenge")
        return base64.b64decode(self.nonce, validate=True)

    def attest(self, primary_evidence: dict) -> str:
        return self.call("POST", "/kbs/v0/attest", {
            "runtime-data": {
                "nonce": self.nonce,
                "tee-pubkey": {"alg": "ECDH-ES+A256KW", **jwk_of(self.key.public_key())},
            },
            "tee-evidence": {"primary_evidence": primary_evidence, "additional_evidence": ""},
        })["token"]

    def resource(self, repository: str, kind: str, tag: str) -> bytes:
        return decrypt_jwe(self.call("GET", f"/kbs/v0/resource/{repository}/{kind}/{tag}"), self.key)


def token_claims(token: str) -> dict:
    """What the token says; its signature is for relying parties."""
    return json.loads(from_base64url(token.split(".")[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("url", "agreement", "stage", "mode"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--ca")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tcti")
    source.add_argument("--evidence", type=pathlib.Path)
    parser.add_argument("--key", type=pathlib.Path, help="the session key of --evidence")
    for name in ("event-log", "ima-log", "save-evidence", "save-nonce", "save-token"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    parser.add_argument("assets", nargs="*")
    options = parser.parse_args()
    if (options.evidence is None) != (options.key is None):
        parser.error("--evidence and --key go together")

    if options.key is not None:
        key = serialization.load_pem_private_key(options.key.read_bytes(), None)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    session = Session(options.url, options.ca, key)
    try:
        nonce = session.auth("pavise", {
            "agreement": options.agreement, "stage": options.stage, "mode": options.mode,
        })
        if options.save_nonce is not None:
            options.save_nonce.write_text(nonce.hex())
        if options.evidence is not None:
            evidence = json.loads(options.evidence.read_bytes())
        else:
            logs = {"event_log": options.event_log, "ima_log": options.ima_log}
            part = tpm_part(options.tcti, binding_value("tpm", nonce, key.public_key(), []),
                            {name: path for name, path in logs.items() if path is not None})
            evidence = composite(nonce, key.public_key(), [part])
        if options.save_evidence is not None:
            options.save_evidence.write_bytes(canonical(evidence))
        token = session.attest(evidence)
        if options.save_token is not None:
            options.save_token.write_text(token)
        for asset in options.assets:
            print(asset, session.resource(options.agreement, options.stage, asset).hex(), flush=True)
    except Refused as refused:
        print(json.dumps({"status": refused.status, **refused.problem}), file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
