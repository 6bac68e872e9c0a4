#!/usr/bin/env python3
"""Writes the seed corpora of the fuzz targets in pavise/kbs.

Deterministic, standard library only. The seeds are committed; run this again after a change of a
format:  python3 fuzz/make_kbs_corpus.py
"""

import base64
import json
import pathlib

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"

# The generator of P-256 as a public key.
EC = {
    "kty": "EC",
    "crv": "P-256",
    "alg": "ECDH-ES+A256KW",
    "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY",
    "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
}


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


RSA = {"kty": "RSA", "alg": "RSA-OAEP-256", "n": base64url(b"\xc5" * 256), "e": "AQAB"}
NONCE = base64.b64encode(bytes(range(32))).decode()


def compact(value) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def write(target: str, seeds: dict[str, bytes]) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in seeds.items():
        (folder / name).write_bytes(content)
    print(f"{target}: {len(seeds)} seeds")


def request(**changes) -> bytes:
    return b"r" + compact({"version": "0.4.0", "tee": "pavise", "extra-params": "", **changes})


def attestation(evidence, key=None, additional="", **more) -> bytes:
    return b"a" + compact({
        "runtime-data": {"nonce": NONCE, "tee-pubkey": key or EC},
        "tee-evidence": {"primary_evidence": evidence, "additional_evidence": additional},
        **more,
    })


def message_seeds() -> dict[str, bytes]:
    purpose = {"agreement": "0123456789abcdef" * 4, "stage": "train", "mode": "measured"}
    return {
        "request": request(),
        "request_purpose": request(**{"extra-params": purpose}),
        "request_hashes": request(tee="tdx", **{"extra-params": {
            "supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"]}}),
        "request_old": request(version="0.1.1", tee="snp"),
        "request_too_new": request(version="0.5.0"),
        "request_sample": request(tee="sample"),
        "request_path": request(**{"extra-params": {**purpose, "stage": "../x"}}),
        "request_more": request(more=1),
        "challenge": b"c" + compact({"nonce": NONCE, "extra-params": ""}),
        "challenge_hash": b"c" + compact({"nonce": NONCE, "extra-params": {
            "selected-hash-algorithm": "sha512"}}),
        "challenge_short": b"c" + compact({"nonce": "AAAA", "extra-params": ""}),
        "attestation": attestation({"version": 1, "parts": []}),
        "attestation_rsa": attestation({"report": "AQI=", "certificates": "Aw=="}, RSA, "{}"),
        "attestation_tdx": attestation({"quote": "AQI=", "cc_eventlog": None}),
        "attestation_devices": attestation({}, None, '{"nvidia":{}}'),
        "attestation_init_data": attestation({}, **{"init-data": {"format": "toml", "body": ""}}),
        "attestation_null": attestation(None),
        "token": b"t" + compact({"token": "e30.e30.AA"}),
        "token_split": b"t" + compact({"token": "e30.e30.AA\r\nX: y"}),
        "cookie": b"skbs-session-id=abc_-9; Path=/; HttpOnly",
        "cookie_twice": b"skbs-session-id=a; kbs-session-id=b",
        "path": b"p" + b"ab" * 32 + b"/train/weights.v2",
        "path_up": b"pa/../b",
        "path_dots": b"p1.ok/2ok./3...",
        "empty": b"",
    }


def jwk_seeds() -> dict[str, bytes]:
    off = {**EC, "y": EC["x"]}
    return {
        "ec": compact(EC),
        "rsa": compact(RSA),
        "off_curve": compact(off),
        "short": compact({**EC, "x": "AAAA"}),
        "private": compact({**EC, "d": EC["x"]}),
        "p384": compact({**EC, "crv": "P-384"}),
        "octet": compact({"kty": "oct", "k": "AAAA"}),
        "rsa_1024": compact({**RSA, "n": base64url(b"\xc5" * 128)}),
        "rsa_exponent_1": compact({**RSA, "e": "AQ"}),
        "rsa_leading_zero": compact({**RSA, "n": base64url(b"\0" + b"\xc5" * 256)}),
        "pkcs1": compact({**RSA, "alg": "RSA1_5"}),
    }


def problem_seeds() -> dict[str, bytes]:
    finding = {"reason": "measurement-mismatch", "item": "PCR 4", "detail": "is aa", "remedy": "boot"}
    plain = {"type": "https://github.com/confidential-containers/kbs/errors/PolicyDeny", "detail": "denied"}
    return {
        "plain": compact(plain),
        "finding": compact({**plain, **finding}),
        "findings": compact({**plain, "title": "t", "status": 403, "findings": [finding, finding]}),
        "later_reason": compact({**plain, "findings": [{**finding, "reason": "moon-phase"}]}),
        "escape": compact({"detail": "\x1b[2J", "reason": "revoked"}),
        "html": b"<html>",
        "wrong_types": compact({"detail": 7}),
        "many": compact({"findings": [finding] * 65}),
    }


def token_seeds() -> dict[str, bytes]:
    jwk = {name: EC[name] for name in ("kty", "crv", "x", "y")}
    draft = {
        "eat_profile": "tag:ietf.org,2026:rats/ear#04", "iat": 1750000000, "exp": 1750000300,
        "eat_nonce": "AQI", "ear_status": "warning", "cnf": {"jwk": jwk},
        "submods": {"tpm": {"ear_status": "affirming", "ear_trustworthiness_vector": {"hardware": 2},
                            "ear_appraisal_policy_ids": ["id"]}},
    }
    earlier = {
        "eat_profile": "tag:github.com,2023:veraison/ear", "iat": 1750000000, "exp": 1750000300,
        "tee-pubkey": EC,
        "submods": {"cpu0": {"ear.status": "none", "ear.trustworthiness-vector": {"executables": -1},
                             "ear.appraisal-policy-id": "default"}},
    }
    return {
        "draft": compact(draft),
        "earlier": compact(earlier),
        "token": b"e30." + base64url(compact(draft)).encode() + b".AA",
        "expired": compact({**draft, "exp": 1750000001}),
        "future": compact({**draft, "iat": 1750001000, "exp": 1750002000}),
        "no_parts": compact({**draft, "submods": {}}),
        "wide_claim": compact({**draft, "submods": {"x": {"ear_status": "none",
                                                          "ear_trustworthiness_vector": {"a": 128}}}}),
        "profile": compact({**draft, "eat_profile": "x"}),
        "dots": b"..",
    }


if __name__ == "__main__":
    write("kbs_messages_fuzz", message_seeds())
    write("tee_public_key_fuzz", jwk_seeds())
    write("kbs_problem_fuzz", problem_seeds())
    write("kbs_token_fuzz", token_seeds())
