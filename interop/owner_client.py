"""An owner's calls to a broker, by a client that shares no code with Pavise.

Written from docs/formats/agreement.md, broker_api.md and sealed.md: deposits, approvals of outputs and
requests are made and signed here, with Python's cryptography. Refused (of kbs_client) says what the
broker answered where it said no.
"""

import base64
import datetime
import hashlib
import http.client
import json
import os
import pathlib
import ssl
import struct
import urllib.parse

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kbs_client import Refused, base64url, canonical, decrypt_jwe, jwk_of


SEGMENT_BYTES = 1 << 20


def key_id(key) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def envelope(kind: str, payload: dict, key: ec.EllipticCurvePrivateKey) -> dict:
    """DSSE v1 with one ECDSA signature by a key on P-256."""
    kind = f"application/vnd.pavise.{kind}+json"
    text = canonical(payload)
    covered = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(text), text)
    return {
        "payloadType": kind,
        "payload": base64.b64encode(text).decode(),
        "signatures": [{
            "keyid": key_id(key.public_key()),
            "sig": base64.b64encode(key.sign(covered, ec.ECDSA(hashes.SHA256()))).decode(),
        }],
    }


def encrypt_jwe(secret: bytes, key: ec.EllipticCurvePublicKey, additional: bytes) -> dict:
    """Flattened JWE with ECDH-ES+A256KW and A256GCM (RFC 7516, 7518)."""
    ephemeral = ec.generate_private_key(key.curve)
    other_info = b"".join(len(field).to_bytes(4, "big") + field for field in (b"ECDH-ES+A256KW", b"", b""))
    wrapping_key = ConcatKDFHash(hashes.SHA256(), length=32, otherinfo=other_info + (256).to_bytes(4, "big")).derive(
        ephemeral.exchange(ec.ECDH(), key))
    content_key, initial = os.urandom(32), os.urandom(12)
    protected = base64url(canonical({
        "alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": jwk_of(ephemeral.public_key()),
    }))
    aad = base64url(additional)
    sealed = AESGCM(content_key).encrypt(initial, secret, f"{protected}.{aad}".encode())
    return {
        "protected": protected,
        "encrypted_key": base64url(keywrap.aes_key_wrap(wrapping_key, content_key)),
        "iv": base64url(initial),
        "ciphertext": base64url(sealed[:-16]),
        "tag": base64url(sealed[-16:]),
        "aad": aad,
    }


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def content_key(sealed: pathlib.Path, key: ec.EllipticCurvePrivateKey) -> tuple[str, bytes]:
    """Id and content key of a sealed asset that `key` is a recipient of."""
    with open(sealed, "rb") as file:
        magic, version, header_bytes, recipients_bytes = struct.unpack("<8sIII", file.read(20))
        if magic != b"PAVISESL" or version != 1:
            raise ValueError(f"{sealed} is no sealed asset")
        asset = hashlib.sha256(file.read(header_bytes)).hexdigest()
        recipients = json.loads(file.read(recipients_bytes))
    mine = next(each["jwe"] for each in recipients if each["key_id"] == key_id(key.public_key()))
    assert mine["aad"] == base64url(f"pavise-sealed/1 {asset}".encode())
    return asset, decrypt_jwe(mine, key)


class Owner:
    """One stakeholder: `folder`/NAME.pem signs, `folder`/NAME-enc.pem is encrypted to."""

    def __init__(self, name: str, folder: pathlib.Path, url: str, authority: pathlib.Path):
        self.name, self.url, self.authority = name, urllib.parse.urlsplit(url), authority
        self.signing, self.encryption = (
            serialization.load_pem_private_key((folder / f"{name}{suffix}.pem").read_bytes(), None)
            for suffix in ("", "-enc"))
        self.broker = None

    def call(self, method: str, target: str, body: bytes = b"", signed: bool = True) -> dict:
        headers = {"Content-Type": "application/json"} if body else {}
        if signed:
            request = {
                "format": "pavise-request/1", "broker": key_id(self.keys()["signing_key"]),
                "key": self.signing.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode(),
                "method": method, "target": target, "body": hashlib.sha256(body).hexdigest(),
                "time": now(), "id": os.urandom(16).hex(),
            }  # fmt: skip
            headers["Pavise-Request"] = base64url(canonical(envelope("request", request, self.signing)))
        context = ssl.create_default_context(cafile=self.authority)
        connection = http.client.HTTPSConnection(self.url.hostname, self.url.port, timeout=60, context=context)
        try:
            connection.request(method, target, body=body or None, headers=headers)
            response = connection.getresponse()
            content = json.loads(response.read() or b"{}")
        finally:
            connection.close()
        if response.status not in (200, 201):
            raise Refused(response.status, content)
        return content

    def keys(self) -> dict:
        if self.broker is None:
            told = self.call("GET", "/pavise/v1/broker", signed=False)
            self.broker = {name: serialization.load_pem_public_key(told[name].encode())
                           for name in ("signing_key", "encryption_key")}  # fmt: skip
        return self.broker

    def state(self, kind: str, agreement: str, path: str, payload: dict) -> dict:
        """Signs a statement and sends it."""
        statement = {"format": f"pavise-{kind}/1", "agreement": agreement, "time": now(), **payload}
        text = canonical(envelope(kind, statement, self.signing))
        return self.call("POST", f"/pavise/v1/agreements/{agreement}/{path}", text, signed=False)

    def deposit(self, agreement: str, asset: str, sealed: pathlib.Path) -> dict:
        identity, secret = content_key(sealed, self.encryption)
        broker = self.keys()["encryption_key"]
        depositor = key_id(self.signing.public_key())
        bound = f"pavise-deposit/2 {agreement} {asset} {identity} {depositor}"
        encrypted = encrypt_jwe(secret, broker, bound.encode())
        return self.state("deposit", agreement, "deposits", {
            "asset": asset, "sealed": identity, "broker": key_id(broker), "encrypted_key": json.dumps(encrypted),
        })

    def approve_output(self, agreement: str, run: str, output: str, sealed: str, recipients: list[str]) -> dict:
        return self.state("output-approval", agreement, "output-approvals", {
            "run": run, "output": output, "sealed": sealed, "recipients": sorted(recipients), "approved": True,
        })

    def output_key(self, agreement: str, run: str, output: str) -> bytes:
        return decrypt_jwe(self.call("GET", f"/pavise/v1/agreements/{agreement}/runs/{run}/outputs/{output}/key"),
                           self.encryption)

    def read(self, agreement: str, what: str) -> dict:
        return self.call("GET", f"/pavise/v1/agreements/{agreement}/{what}")


def unseal(sealed: pathlib.Path, secret: bytes) -> dict[str, bytes]:
    """The files of a sealed asset, by path; the content key is held against the commitment first."""
    content = sealed.read_bytes()
    _, _, header_bytes, recipients_bytes = struct.unpack("<8sIII", content[:20])
    header_text = content[20 : 20 + header_bytes]
    header, asset = json.loads(header_text), hashlib.sha256(header_text).digest()
    salt = bytes.fromhex(header["salt"])

    def derived(label: str) -> bytes:
        return HKDF(hashes.SHA256(), 32, salt, f"pavise-sealed/1 {label}".encode()).derive(secret)

    if derived("commitment").hex() != header["commitment"]:
        raise ValueError("another content key")
    cipher, at, plain = AESGCM(derived("encryption")), 20 + header_bytes + recipients_bytes, b""
    count = -(-header["payload_bytes"] // SEGMENT_BYTES)
    for number in range(count):
        nonce = bytes(3) + number.to_bytes(8, "big") + bytes([number == count - 1])
        size = min(SEGMENT_BYTES, header["payload_bytes"] - len(plain)) + 16
        plain += cipher.decrypt(nonce, content[at : at + size], asset)
        at += size
    (index_bytes,) = struct.unpack_from("<Q", plain)
    signature_bytes, files = struct.unpack_from("<QQ", plain, 8)
    at, begin, result = 24, 8 + index_bytes + signature_bytes, {}
    for _ in range(files):
        (path_bytes,) = struct.unpack_from("<H", plain, at)
        path = plain[at + 2 : at + 2 + path_bytes].decode()
        (size,) = struct.unpack_from("<Q", plain, at + 3 + path_bytes)
        at += 11 + path_bytes
        result[path] = plain[begin : begin + size]
        begin += size
    return result
