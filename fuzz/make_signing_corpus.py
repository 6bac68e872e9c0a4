#!/usr/bin/env python3
"""Writes the seed corpora of the fuzz targets in pavise/signing.

Deterministic, standard library only. The seeds are committed; run this again after a change of a
format:  python3 fuzz/make_signing_corpus.py
"""

import base64
import hashlib
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
MIB = 1 << 20


def write(fuzzer, name, content):
    folder = CORPUS / fuzzer
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# ---- statements ----


def statement(resources, serialization, annotations=None, name="model"):
    digests = b"".join(bytes.fromhex(resource["digest"]) for resource in resources)
    subject = {"name": name, "digest": {"sha256": hashlib.sha256(digests).hexdigest()}}
    if annotations:
        subject["annotations"] = annotations
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [subject],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": resources},
    }


def resource(name, algorithm="sha256", digest_bytes=32, **more):
    digest = hashlib.shake_128(name.encode()).hexdigest(digest_bytes)
    return {"name": name, "algorithm": algorithm, "digest": digest, **more}


def tensor(name, begin, end):
    return {
        "name": name,
        "dtype": "F32",
        "shape": [(end - begin) // 4],
        "begin": begin,
        "end": end,
        "blake3": "ab" * 32,
    }


def annotation(length, tensors=None, blake3="cd" * 32):
    pavise = {"version": 1, "length": length, "blake3": blake3}
    if tensors is not None:
        pavise["tensors"] = {"format": "safetensors", "data_begin": 16, "entries": tensors}
    return {"pavise": pavise}


def files(hash_type="sha256", **more):
    return {"method": "files", "hash_type": hash_type, "allow_symlinks": False, **more}


def shards(size, hash_type="sha256"):
    return {
        "method": "shards",
        "hash_type": hash_type,
        "shard_size": size,
        "allow_symlinks": True,
    }


def statements():
    tensors = [tensor("a", 16, 56), tensor("b", 56, 56), tensor("c", 56, 96)]
    annotated = resource("w.safetensors", annotations=annotation(96, tensors))
    blake3_digest = resource("f", "blake3")["digest"]
    sharded = "sha256-sharded-8"
    good = {
        "files": statement([resource("a/b"), resource("c")], files()),
        "ignore_paths": statement([resource("a")], files(ignore_paths=[".git", "model.sig"])),
        "annotated": statement(
            [annotated, resource("z")],
            files(),
            {"pavise": {"version": 1, "model_version": 7}},
        ),
        "other_annotations": statement(
            [resource("a", annotations={"other": {"x": [1, None]}}, mediaType="text/plain")],
            files(),
            {"other": 1},
        ),
        "single": statement([resource(".")], files()),
        "single_base_name": statement([resource("model")], files()),
        "blake2b": statement([resource("a", "blake2b", 64)], files("blake2b")),
        "blake3": statement(
            [resource("f", "blake3", annotations=annotation(3, blake3=blake3_digest))],
            files("blake3"),
        ),
        "shards": statement(
            [
                resource("f:0:8", sharded, annotations=annotation(20)),
                resource("f:8:16", sharded),
                resource("f:16:20", sharded),
            ],
            shards(8),
        ),
        "shards_float": statement([resource("a:b:0:8", sharded)], shards(8.0)),
        "shards_plain_name_order": statement(
            [resource("f:0:8"), resource("f:16:20"), resource("f:8:16")], shards(8)
        ),
        "empty": statement([], files()),
        "control_characters": statement([resource("a\n\x1b[31m\u00e9")], files()),
    }
    for name, value in good.items():
        write("statement_fuzz", name + ".json", compact(value))
    write("statement_fuzz", "indented.json", json.dumps(good["annotated"], indent=2))
    write(
        "statement_fuzz",
        "release_0_2_0.json",
        compact(
            {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [
                    {
                        "name": "d/f0",
                        "digest": {"sha256": "11" * 32},
                        "annotations": {"actual_hash_algorithm": "file-sha256"},
                    }
                ],
                "predicateType": "https://model_signing/Digests/v0.1",
                "predicate": {"unused": ""},
            }
        ),
    )

    bad = {
        "traversal": statement([resource("../a")], files()),
        "file_and_directory": statement([resource("a"), resource("a/b")], files()),
        "twice": statement([resource("a"), resource("a")], files()),
        "shard_gap": statement([resource("f:0:8"), resource("f:9:10")], shards(8)),
        "overlap": statement(
            [resource("w", annotations=annotation(96, [tensor("a", 16, 60), tensor("c", 56, 96)]))],
            files(),
        ),
        "version_2": statement([resource("a", annotations={"pavise": {"version": 2}})], files()),
        "two_subjects": {**good["files"], "subject": good["files"]["subject"] * 2},
        "other_predicate": {**good["files"], "predicateType": "https://slsa.dev/provenance/v1"},
        "unknown_member": {**good["files"], "extra": 1},
    }
    for name, value in bad.items():
        write("statement_fuzz", "refused_" + name + ".json", compact(value))
    write("statement_fuzz", "refused_bomb.json", "[" * 2000)
    duplicate = compact(good["files"]).replace('"method":', '"method":"files","method":', 1)
    write("statement_fuzz", "refused_duplicate_key.json", duplicate)
    return compact(good["annotated"])


# ---- bundles ----


def b64(content):
    return base64.b64encode(content).decode()


def bundle(material, payload, **signature):
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": material,
        "dsseEnvelope": {
            "payload": b64(payload.encode()),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": b64(b"\x30\x06\x02\x01\x01\x02\x01\x01"), **signature}],
        },
    }


def bundles(payload):
    certificate = {"rawBytes": b64(b"\x30\x03\x02\x01\x05")}
    entry = {
        "logIndex": "206342049",
        "logId": {"keyId": b64(b"\x03" * 32)},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": "1746234602",
        "inclusionPromise": {"signedEntryTimestamp": b64(b"\x30\x00")},
        "inclusionProof": {
            "logIndex": "4",
            "rootHash": b64(b"\x05" * 32),
            "treeSize": "7",
            "hashes": [b64(b"\x06" * 32), b64(b"\x07" * 32)],
            "checkpoint": {"envelope": "log.example - 1\n7\nBQU=\n\n\u2014 log.example AAAA\n"},
        },
        "canonicalizedBody": b64(b"{}"),
    }
    chain = {"certificates": [certificate, certificate]}
    pem = b64(b"-----BEGIN PUBLIC KEY-----\n")
    good = {
        "key": bundle({"publicKey": {"hint": "ab" * 32}, "tlogEntries": []}, payload, keyid=""),
        "key_release_0_3_1": bundle(
            {"publicKey": {"rawBytes": pem, "keyDetails": "PKIX_ECDSA_P384_SHA_384"}},
            payload,
            keyid=None,
        ),
        "key_without_hint": bundle({"publicKey": {}, "tlogEntries": []}, "{'\"\\\n\x01}"),
        "certificate": bundle({"x509CertificateChain": chain, "tlogEntries": []}, payload),
        "sigstore": bundle(
            {
                "certificate": certificate,
                "tlogEntries": [entry],
                "timestampVerificationData": {
                    "rfc3161Timestamps": [{"signedTimestamp": b64(b"\x30\x00")}]
                },
            },
            payload,
        ),
        "sigstore_numbers": bundle(
            {
                "certificate": certificate,
                "tlogEntries": [
                    {
                        "logIndex": 3,
                        "logId": entry["logId"],
                        "kindVersion": entry["kindVersion"],
                        "inclusionProof": {"rootHash": b64(b"\x05" * 32), "treeSize": 1},
                        "canonicalizedBody": entry["canonicalizedBody"],
                    }
                ],
                "timestampVerificationData": {},
            },
            payload,
        ),
    }
    for name, value in good.items():
        write("bundle_fuzz", name + ".json", compact(value))
    bad = {
        "two_materials": bundle({"publicKey": {}, "certificate": certificate}, payload),
        "no_log_entries": bundle({"certificate": certificate, "tlogEntries": []}, payload),
        "unknown_member": {**good["key"], "extra": 1},
        "empty": {},
    }
    for name, value in bad.items():
        write("bundle_fuzz", "refused_" + name + ".json", compact(value))
    write("bundle_fuzz", "refused_bomb.json", '{"a":' * 500)
    write("bundle_fuzz", "refused_not_utf8.json", compact(good["key"]).encode() + b"\xff")


# ---- outboard files ----

IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS_AND_DIAGONALS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)
PARENT, ROOT = 4, 8


def parent(left, right, flags=0):
    """BLAKE3's parent node over two chaining values (paper, section 2.5)."""
    words = struct.unpack("<16I", left + right)
    v = [*IV, *IV[:4], 0, 0, 64, PARENT | flags]

    def rotate(value, count):
        return (value >> count | value << (32 - count)) & 0xFFFFFFFF

    for _ in range(7):
        for i, (a, b, c, d) in enumerate(COLUMNS_AND_DIAGONALS):
            for word, by_d, by_b in ((words[2 * i], 16, 12), (words[2 * i + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & 0xFFFFFFFF
                v[d] = rotate(v[d] ^ v[a], by_d)
                v[c] = (v[c] + v[d]) & 0xFFFFFFFF
                v[b] = rotate(v[b] ^ v[c], by_b)
        words = [words[i] for i in PERMUTATION]
    return struct.pack("<8I", *(v[i] ^ v[i + 8] for i in range(8)))


def tree(values, flags=ROOT):
    if len(values) == 1:
        return values[0]
    left = 1
    while left * 2 < len(values):
        left *= 2
    return parent(tree(values[:left], 0), tree(values[left:], 0), flags)


def outboard(entries, version=1, log2=20, count=None):
    out = b"PAVISEOB" + struct.pack("<IIqQ", version, log2, 1_700_000_000_000_000_000,
                                    len(entries) if count is None else count)
    for path, size, root, values in entries:
        path = path.encode()
        out += struct.pack("<I", len(path)) + path + struct.pack("<Q", size) + root
        out += b"".join(values)
    return out


def large(path, count):
    values = [bytes([i + 1]) * 32 for i in range(count)]
    return (path, (count - 1) * MIB + 1, tree(values), values)


def outboards():
    small = ("a", 5, b"\x11" * 32, [])
    good = {
        "none": outboard([]),
        "small": outboard([small]),
        "single": outboard([large(".", 2)]),
        "several": outboard([small, large("b/c", 2), large("b/d", 5), ("e", MIB, b"\x22" * 32, [])]),
    }
    for name, content in good.items():
        write("outboard_fuzz", name + ".tree", content)
    path, size, root, values = large("f", 3)
    bad = {
        "version": outboard([small], version=2),
        "subtree_size": outboard([small], log2=19),
        "count": outboard([small], count=1 << 60),
        "order": outboard([("b", 1, b"\x01" * 32, []), small]),
        "traversal": outboard([("../a", 1, b"\x01" * 32, [])]),
        "size": outboard([("a", (1 << 64) - 1, b"\x01" * 32, [])]),
        "swapped": outboard([(path, size, root, [values[1], values[0], values[2]])]),
        "cut_short": good["several"][:-1],
        "trailing": good["several"] + b"\0",
    }
    for name, content in bad.items():
        write("outboard_fuzz", "refused_" + name + ".tree", content)


# ---- trust files ----


def trust_policies():
    key = "    signers: [{key: key.pub}]\n"
    model = '  - model: "acme/*"\n'.replace("/", "-")
    good = {
        "key": "version: 1\nmodels:\n" + model + key,
        "minimum": "version: 1\nmodels:\n" + model + "    minimum_version: 3\n" + key,
        "two_rules": "version: 1\nmodels:\n" + model + key + '  - model: "*"\n' + key,
        "revoked": "version: 1\nmodels:\n" + model + key
        + 'revoked:\n  keys: ["' + "9f" * 32 + '", key.pub]\n  certificates: ["' + "ab" * 32 + '"]\n',
        "flow": '{"version": 1, "models": [{"model": "*", "signers": [{"key": "key.pub"}]}]}',
        "comment": "# who may sign\n---\nversion: 1\nmodels:\n" + model + key,
    }
    for name, text in good.items():
        write("trust_policy_fuzz", name + ".yaml", text)
    bad = {
        "alias": "version: 1\nmodels: &a\n" + model + key + "revoked: *a\n",
        "tag": "version: !!int 1\nmodels:\n" + model + key,
        "merge": "version: 1\nmodels:\n  - <<: {model: x}\n" + key,
        "duplicate": "version: 1\nversion: 1\nmodels:\n" + model + key,
        "two_documents": "version: 1\n---\nversion: 1\n",
        "deep": "version: " + "[" * 40 + "]" * 40,
        "no_signers": "version: 1\nmodels:\n" + model + "    signers: []\n",
        "missing_file": "version: 1\nmodels:\n" + model + "    signers: [{key: none.pub}]\n",
        "certificate": "version: 1\nmodels:\n" + model
        + "    signers: [{certificate: {roots: key.pub, identities: [CN=a]}}]\n",
        "sigstore": "version: 1\nmodels:\n" + model
        + "    signers: [{sigstore: {trusted_root: key.pub, identity: a, issuer: b}}]\n",
        "octal": "version: 01\nmodels:\n" + model + key,
        "quoted_number": 'version: "1"\nmodels:\n' + model + key,
        "not_utf8": b"version: 1\nmodels: \xff\xfe\n",
    }
    for name, text in bad.items():
        write("trust_policy_fuzz", "refused_" + name + ".yaml", text)


# ---- Sigstore trusted roots ----


def der(tag, *contents):
    content = b"".join(contents)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def oid(hexadecimal):
    return der(0x06, bytes.fromhex(hexadecimal))


# The generator of P-256 as a SubjectPublicKeyInfo: a valid key, whose private key is 1.
SPKI = der(
    0x30,
    der(0x30, oid("2a8648ce3d0201"), oid("2a8648ce3d030107")),
    der(
        0x03,
        b"\0\x04",
        bytes.fromhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"),
        bytes.fromhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"),
    ),
)


def certificate(name):
    """One that parses; its signature is of nothing."""
    ecdsa_sha256 = der(0x30, oid("2a8648ce3d040302"))
    who = der(0x30, der(0x31, der(0x30, oid("550403"), der(0x0C, name.encode()))))
    validity = der(0x30, der(0x17, b"210307032029Z"), der(0x17, b"310223032029Z"))
    tbs = der(
        0x30, der(0xA0, der(0x02, b"\x02")), der(0x02, b"\x01"), ecdsa_sha256, who, validity, who,
        SPKI,
    )
    signature = der(0x30, der(0x02, b"\x01"), der(0x02, b"\x01"))
    return der(0x30, tbs, ecdsa_sha256, der(0x03, b"\0" + signature))


def trusted_roots():
    text = lambda raw: base64.b64encode(raw).decode()
    log = {
        "baseUrl": "https://log.example",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": text(SPKI),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": {"start": "2021-01-12T11:53:27Z"},
        },
        "logId": {"keyId": text(hashlib.sha256(SPKI).digest())},
    }
    authority = {
        "uri": "https://fulcio.example",
        "certChain": {"certificates": [{"rawBytes": text(certificate(n))} for n in ("leaf", "root")]},
        "validFor": {"start": "2021-03-07T03:20:29Z", "end": "2030-12-31T23:59:59.999Z"},
    }
    media_type = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
    root = {
        "mediaType": media_type,
        "tlogs": [log],
        "ctlogs": [log],
        "certificateAuthorities": [authority],
    }
    write("trusted_root_fuzz", "root.json", compact(root))
    write("trusted_root_fuzz", "client_configuration.json", compact({"trustedRoot": root}))
    write("trusted_root_fuzz", "no_ct_logs.json", compact({**root, "ctlogs": []}))
    backwards = {**log["publicKey"], "validFor": {"start": "2022-01-01T00:00:00Z",
                                                  "end": "2021-01-01T00:00:00Z"}}
    bad = {
        "media_type": {**root, "mediaType": "application/json"},
        "no_logs": {**root, "tlogs": []},
        "backwards": {**root, "tlogs": [{**log, "publicKey": backwards}]},
        "wrong_identifier": {**root, "tlogs": [{**log, "logId": {"keyId": text(bytes(32))}}]},
        "cut_certificate": {
            **root,
            "certificateAuthorities": [
                {**authority, "certChain": {"certificates": [{"rawBytes": text(certificate("a")[:-1])}]}}
            ],
        },
    }
    for name, value in bad.items():
        write("trusted_root_fuzz", "refused_" + name + ".json", compact(value))


if __name__ == "__main__":
    bundles(statements())
    outboards()
    trust_policies()
    trusted_roots()
