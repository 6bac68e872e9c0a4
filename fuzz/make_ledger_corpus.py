#!/usr/bin/env python3
"""Writes the seed corpora of the fuzz targets in pavise/ledger, by docs/formats/ledger.md alone: the
hashing, canonical JSON and notes here share nothing with the C++ code that must accept them.

Deterministic. Needs the Python package cryptography. The seeds are committed; run this again after
a change of a format:  python3 fuzz/make_ledger_corpus.py
"""

import base64
import hashlib
import json
import pathlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
ORIGIN = "broker.example/ledger"


def write(fuzzer, name, content):
    folder = CORPUS / fuzzer
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def canonical(value):
    # Enough for ASCII texts and integers.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def text64(data):
    return base64.b64encode(data).decode()


# ---- the tree, as RFC 6962 defines it ----


def sha256(data):
    return hashlib.sha256(data).digest()


def split(count):
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def root(entries):
    if not entries:
        return sha256(b"")
    if len(entries) == 1:
        return sha256(b"\0" + entries[0].encode())
    k = split(len(entries))
    return sha256(b"\1" + root(entries[:k]) + root(entries[k:]))


def path(index, entries):
    if len(entries) <= 1:
        return []
    k = split(len(entries))
    if index < k:
        return path(index, entries[:k]) + [root(entries[k:])]
    return path(index - k, entries[k:]) + [root(entries[:k])]


def consistency(old, entries, known=True):
    if old == len(entries):
        return [] if known else [root(entries)]
    k = split(len(entries))
    if old <= k:
        return consistency(old, entries[:k], known) + [root(entries[k:])]
    return consistency(old - k, entries[k:], False) + [root(entries[:k])]


# ---- notes ----


class NoteKey:
    def __init__(self, seed, name, kind):
        self.key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        public = self.key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        self.name = name
        self.encoded = bytes([kind]) + public
        self.hash = sha256(name.encode() + b"\n" + self.encoded)[:4]

    def vkey(self):
        return f"{self.name}+{self.hash.hex()}+{text64(self.encoded)}"

    def line(self, signature):
        return f"\u2014 {self.name} {text64(self.hash + signature)}\n"


LOG = NoteKey(1, ORIGIN, 1)
WITNESS = NoteKey(8, "witness.example", 4)


def checkpoint(entries, cosigned=False, extensions=""):
    text = f"{ORIGIN}\n{len(entries)}\n{text64(root(entries))}\n{extensions}"
    note = text + "\n" + LOG.line(LOG.key.sign(text.encode()))
    if cosigned:
        seconds = 1767225700
        message = f"cosignature/v1\ntime {seconds}\n{text}"
        note += WITNESS.line(seconds.to_bytes(8, "big") + WITNESS.key.sign(message.encode()))
    return note


# ---- entries ----

STAGE = {"version": 2, "stage": "train", "mode": "measured"}
SESSION = {"run": "77" * 16, "session": "5" * 64}
OWNER = {"actor": "a" * 64, "statement": "51" * 32}
OWNERS = {"owners": ["a" * 64, "b" * 64]}
EVIDENCE = {"evidence": "e1" * 32, "machine": "tpm:3b7a"}
# (kind, in an agreement, its members)
KINDS = [
    ("broker-started", False, {"key": "d" * 64}),
    ("agreement-proposed", True, OWNER | {"version": 2} | OWNERS),
    ("approval", True, OWNER | {"version": 2} | OWNERS),
    ("agreement-in-force", True, {"version": 2} | OWNERS),
    ("deposit", True, OWNER | OWNERS | {"asset": "scans", "sealed": "5e" * 32}),
    ("run-begun", True, STAGE | SESSION | EVIDENCE),
    ("release", True, STAGE | SESSION | EVIDENCE | OWNERS | {"asset": "scans", "decision": "de" * 32}),
    ("refusal", True, STAGE | {"asset": "scans", "reasons": [
        {"reason": "measurement-unknown", "rule": "/usr/bin/python3", "detail": "not listed"}]}),
    ("reattested", True, STAGE | SESSION | EVIDENCE),
    ("output-deposited", True, SESSION | {"asset": "model"}),
    ("output-approval", True, OWNER | {"asset": "model", "run": "77" * 16}),
    ("output-released", True, {"asset": "model", "run": "77" * 16, "recipients": ["c" * 64]}),
    ("withdrawal", True, OWNER | OWNERS),
    ("revocation", True, SESSION | {"reasons": [{"reason": "policy-denied", "rule": "withdrawal"}]}),
    ("run-ended", True, SESSION),
    ("key-rotation", False, {"key": "e" * 64, "previous_key": "d" * 64}),
    ("checkpoint-cosigned", False, OWNER),
]


def history():
    entries = []
    sequence = 0
    for number, (kind, in_agreement, members) in enumerate(KINDS):
        entry = {"format": "pavise-ledger-entry/1", "kind": kind, "salt": f"{number:032x}",
                 "time": f"2026-01-01T00:00:{number:02d}.000001Z"} | members
        if in_agreement:
            sequence += 1
            entry |= {"agreement": "aa" * 32, "sequence": sequence}
        entries.append(canonical(entry))
    return entries


def bundle(entries, earlier=(), cosigned=False):
    return {
        "format": "pavise-ledger-bundle/1",
        "checkpoint": checkpoint(entries, cosigned),
        "earlier": [
            {"checkpoint": checkpoint(entries[:size]),
             "proof": [text64(h) for h in consistency(size, entries)] if size else []}
            for size in earlier
        ],
        "entries": [
            {"index": i, "entry": entry, "proof": [text64(h) for h in path(i, entries)]}
            for i, entry in enumerate(entries)
        ],
    }


def main():
    entries = history()
    for (kind, _, _), entry in zip(KINDS, entries):
        write("ledger_entry_fuzz", kind + ".json", entry)
    write("ledger_entry_fuzz", "refused_space.json", entries[0] + " ")
    write("ledger_entry_fuzz", "refused_kind.json", entries[0].replace("broker-started", "started"))
    write("ledger_entry_fuzz", "refused_depth.json", '{"a":' * 500)
    write("ledger_entry_fuzz", "refused_not_utf8.json", entries[0].encode()[:-1] + b"\xff}")

    write("ledger_checkpoint_fuzz", "checkpoint.txt", checkpoint(entries))
    write("ledger_checkpoint_fuzz", "cosigned.txt", checkpoint(entries, True))
    write("ledger_checkpoint_fuzz", "extended.txt", checkpoint(entries, False, "more\n"))
    write("ledger_checkpoint_fuzz", "empty_log.txt", checkpoint([]))
    write("ledger_checkpoint_fuzz", "log.vkey", LOG.vkey())
    write("ledger_checkpoint_fuzz", "witness.vkey", WITNESS.vkey() + "\n")
    write("ledger_checkpoint_fuzz", "refused_size.txt", checkpoint(entries).replace("\n17\n", "\n017\n"))
    write("ledger_checkpoint_fuzz", "refused_cut.txt", checkpoint(entries)[:-20])

    whole = bundle(entries, (0, 3, 16), True)
    write("ledger_bundle_fuzz", "whole.json", canonical(whole))
    one = bundle(entries)
    one["entries"] = one["entries"][6:7]
    write("ledger_bundle_fuzz", "one.json", canonical(one))
    one["entries"][0]["entry"] = one["entries"][0]["entry"].replace("scans", "brain")
    write("ledger_bundle_fuzz", "refused_changed.json", canonical(one))
    write("ledger_bundle_fuzz", "refused_shorter.json", canonical(bundle(entries[:5])).replace(ORIGIN, "a"))
    write("ledger_bundle_fuzz", "refused_depth.json", '{"a":' * 500)
    print(LOG.vkey())


if __name__ == "__main__":
    main()
