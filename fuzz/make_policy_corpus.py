#!/usr/bin/env python3
"""Writes the seed corpora of the fuzz targets in pavise/policy.

Deterministic, standard library only. The seeds are committed; run this again after a change of a
format:  python3 fuzz/make_policy_corpus.py
"""

import base64
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent
CORPUS = ROOT / "corpus"
GOLDEN = ROOT.parent / "pavise" / "policy" / "testing" / "golden"

# SubjectPublicKeyInfo of P-256's base point: the private key is 1.
KEY = bytes.fromhex(
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


def write(fuzzer, name, content):
    folder = CORPUS / fuzzer
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def canonical(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def agreement():
    key = base64.b64encode(KEY).decode()
    return {
        "format": "pavise-agreement/1",
        "name": "alone",
        "version": 1,
        "stakeholders": {"a": {"signing_key": key, "encryption_key": key}},
        "changes": {"approvals": 1, "of": ["a"]},
        "assets": {
            "code": {"kind": "code", "owner": "a", "statement": "1" * 64, "sealed": "2" * 64},
            "data": {"kind": "data", "owner": "a", "statement": "3" * 64, "sealed": "4" * 64},
        },
        "stages": {
            "train": {
                "purpose": "to learn",
                "modes": {"measured": {"policy": "5" * 64, "files": {"r.json": "6" * 64}}},
                "code": "code",
                "command": ["/code/train", "*"],
                "inputs": ["data"],
                "outputs": {"out": {"recipients": ["a"]}},
                "limits": {"not_after": "2030-01-01T00:00:00Z", "runs": 1, "epochs": 3},
                "reattest_seconds": 60,
            }
        },
    }


def main():
    one = agreement()
    write("agreement_fuzz", "one", canonical(one))
    full = agreement()
    full["version"] = 2
    full["previous"] = "7" * 64
    full["changes"].update({"vetoes": ["a"], "veto_seconds": 3600})
    full["stages"]["train"].update(
        {"network": ["example.org:443"], "broker_grace_seconds": 5, "findings_to_host": True}
    )
    full["rules"] = {
        "r": {
            "owner": "a",
            "assets": ["data"],
            "stages": ["train"],
            "modes": ["measured", "tee"],
            "purposes": ["to learn"],
            "code": ["1" * 64],
            "recipients": ["a"],
            "evidence": {"policy": "5" * 64, "anchors": {"tpm/ca.pem": "8" * 64}},
            "not_after": "2029-01-01T00:00:00Z",
            "runs": 1,
            "forbid_network": True,
        }
    }
    write("agreement_fuzz", "full", canonical(full))
    write("agreement_fuzz", "spaced", json.dumps(one))
    write("agreement_fuzz", "cut", canonical(one)[:-9])

    yaml = (GOLDEN / "lungs.yaml").read_text()
    write("agreement_yaml_fuzz", "lungs", yaml)
    write("agreement_yaml_fuzz", "twice", yaml + "name: again\n")
    write("agreement_yaml_fuzz", "alias", yaml.replace("owner: vendor", "owner: &v vendor", 1))
    write("agreement_yaml_fuzz", "deep", "a: " + "[" * 40 + "]" * 40)

    base = {"agreement": "1" * 64, "time": "2027-01-15T08:00:00Z"}
    statements = {
        "approval": {"version": 1, "payload": "1" * 64, "vote": "approve"},
        "withdrawal": {"assets": ["data"], "explanation": "why"},
        "deposit": {"asset": "data", "sealed": "2" * 64, "broker": "3" * 64, "encrypted_key": "{}"},
        "output-approval": {
            "run": "r-1",
            "output": "out",
            "sealed": "2" * 64,
            "recipients": ["a"],
            "approved": True,
        },
    }
    for kind, members in statements.items():
        write(
            "owner_statement_fuzz",
            kind,
            canonical({"format": f"pavise-{kind}/1", **base, **members}),
        )


if __name__ == "__main__":
    main()
