#!/usr/bin/env python3
"""Writes the seed inputs of the targets named in main() into fuzz/corpus/.

The seeds are committed; run this again only to change them. Each run gives the same bytes.
Inputs that fuzzing finds are added beside them by hand, under names of their own.
"""

import base64
import gzip
import hashlib
import io
import json
import pathlib
import struct
import zipfile

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def write(target: str, name: str, content: bytes) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def json_seeds() -> dict[str, bytes]:
    return {
        "every_kind": rb'{"a":[1,-2,3.5e-7,true,false,null,"x"],"b":{"c":{}},"d":"\u00e9\ud83d\udee1\n"}',
        "scalar": b" 18446744073709551615\r\n",
        "beyond_integers": b"[18446744073709551616,-9223372036854775809,1e308,-0,-0.0]",
        "out_of_range": b"[1e999]",
        "duplicate_key": rb'{"a":1,"\u0061":2}',
        "trailing_text": b"{}{}",
        "comment": b"[1,/* x */2]",
        "byte_order_mark": b"\xef\xbb\xbf{}",
        "nul": b"{}\0",
        "not_utf8": b'"\xed\xa0\x80"',
        "lone_surrogate": rb'"\ud800"',
        "leading_zero": b"[01]",
        "deep": b"[" * 40 + b"]" * 40,
        "empty": b"",
    }


def safetensors(header: object, data: bytes, padding: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * padding
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds() -> dict[str, bytes]:
    two = {
        "__metadata__": {"format": "pt"},
        "a": tensor("BF16", [2, 2], 0, 8),
        "b": tensor("F32", [3], 8, 20),
    }
    return {
        "two_tensors": safetensors(two, bytes(20)),
        "padded": safetensors(two, bytes(20), padding=7),
        "no_tensors": safetensors({}, b""),
        "empty_tensors": safetensors(
            {"z": tensor("F32", [0, 7], 0, 0), "m": tensor("U8", [4], 0, 4), "e": tensor("I64", [0], 4, 4)},
            bytes(4),
        ),
        "scalar_and_small_types": safetensors(
            {"s": tensor("F64", [], 0, 8), "f": tensor("F4", [6], 8, 11), "g": tensor("F6_E2M3", [4], 11, 14)},
            bytes(14),
        ),
        "hole": safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 3, 5)}, bytes(5)),
        "overlap": safetensors({"a": tensor("U8", [3], 0, 3), "b": tensor("U8", [3], 2, 5)}, bytes(5)),
        "trailing": safetensors(two, bytes(21)),
        "cut_short": safetensors(two, bytes(20))[:-1],
        "overflow": safetensors({"a": tensor("U8", [2**32, 2**32], 0, 0)}, b""),
        "unknown_dtype": safetensors({"a": tensor("F128", [1], 0, 16)}, bytes(16)),
        "duplicate": safetensors(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
            bytes(2),
        ),
        "length_lies": struct.pack("<Q", 2**64 - 8) + b"{}",
        "too_short": b"\x02\0\0\0",
    }


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: bytes, shape: list[int], kind: int, offset: int) -> bytes:
    dimensions = b"".join(struct.pack("<Q", d) for d in shape)
    return text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)


def gguf(pairs: list[bytes], infos: list[bytes], data: int, version: int = 3, alignment: int = 32) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(pairs)) + b"".join(pairs + infos)
    return header + bytes(-len(header) % alignment) + bytes(data)


def gguf_seeds() -> dict[str, bytes]:
    scalars = [pair(b"k%d" % kind, kind, bytes(size)) for kind, size in
               [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]]
    strings = pair(b"tokens", 9, struct.pack("<IQ", 8, 3) + text(b"a") + text(b"") + text(b"ccc"))
    nested = pair(b"nested", 9, struct.pack("<IQ", 9, 2) + struct.pack("<IQ", 7, 2) + b"\0\1"
                  + struct.pack("<IQ", 8, 1) + text(b"x"))
    wide = pair(b"general.alignment", 4, struct.pack("<I", 64))
    deep = pair(b"deep", 9, struct.pack("<IQ", 9, 1) * 6 + struct.pack("<IQ", 0, 1) + b"\0")
    two = [info(b"a", [32, 2], 8, 0), info(b"b", [3], 0, 128)]
    return {
        "everything": gguf(scalars + [strings, nested, wide], two, 140, alignment=64),
        "version_2": gguf([], [info(b"t", [8], 0, 0)], 32, version=2),
        "no_tensors": gguf([pair(b"general.name", 8, text(b"n"))], [], 0),
        "blocks": gguf([], [info(b"q4_k", [256, 2], 12, 0), info(b"mxfp4", [64], 39, 288)], 322),
        "empty_and_scalar": gguf([], [info(b"e", [0, 4], 1, 0), info(b"s", [], 0, 0)], 4),
        "version_1": gguf([], [], 0, version=1),
        "big_endian": gguf([], [], 0, version=0x03000000),
        "unknown_type": gguf([], [info(b"t", [1], 4, 0)], 32),
        "part_of_a_block": gguf([], [info(b"t", [31], 8, 0)], 64),
        "overlap": gguf([], [info(b"a", [16], 0, 0), info(b"b", [8], 0, 32)], 64),
        "outside": gguf([], [info(b"t", [8], 0, 32)], 32),
        "overflow": gguf([], [info(b"t", [2**32, 2**32], 0, 0)], 32),
        "same_name": gguf([], [info(b"t", [8], 0, 0), info(b"t", [8], 0, 32)], 64),
        "same_key": gguf([pair(b"k", 0, b"\0"), pair(b"k", 0, b"\0")], [], 0),
        "deep": gguf([deep], [], 0),
        "counts_lie": b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 2**64 - 1) + bytes(64),
        "string_lies": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63) + bytes(64),
        "cut_short": gguf([strings], two, 140)[:60],
    }


def sized(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def tpm_public(attributes: int, scheme: bytes, key: bytes, kind: int, policy: bytes = b"",
               cipher: bytes = b"\0\x10", name_algorithm: int = 11) -> bytes:
    return struct.pack(">HHI", kind, name_algorithm, attributes) + sized(policy) + cipher + scheme + key


def tpm_quote(selection: bytes, kind: int = 0x8018) -> bytes:
    clock = struct.pack(">QIIBQ", 12345, 2, 1, 1, 0x2019102300163636)
    header = struct.pack(">IH", 0xFF544347, kind)
    return header + sized(b"\0\x0b" + bytes(32)) + sized(b"nonce") + clock + selection + sized(bytes(32))


def tpm_seeds() -> dict[str, bytes]:
    # The base point of P-256, a point like any other.
    point = sized(bytes.fromhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296")) + sized(
        bytes.fromhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"))
    p256 = b"\0\x03\0\x10" + point
    modulus = bytes([0xC1]) + bytes(range(1, 255)) + b"\x01"
    rsa = struct.pack(">HI", 2048, 0) + sized(modulus)
    ecdsa, rsassa, rsapss = b"\0\x18\0\x0b", b"\0\x14\0\x0b", b"\0\x16\0\x0c"
    aes = b"\0\x06\0\x80\0\x43"
    ak = tpm_public(0x00050072, ecdsa, p256, 0x23)
    ek = tpm_public(0x000300B2, b"\0\x10", rsa, 1, policy=bytes(32), cipher=aes)
    banks = struct.pack(">I", 2) + b"\0\x04\x03\0\4\0" + b"\0\x0b\x03\xff\x4f\0"
    return {
        "ecc_ak": b"p" + ak,
        "ecc_ak_sized": b"b" + sized(ak),
        "rsa_ek": b"p" + ek,
        "rsa_ak": b"p" + tpm_public(0x00050072, rsassa, rsa, 1),
        "rsa_small_modulus": b"p" + tpm_public(0x00050072, rsassa, struct.pack(">HI", 1024, 0)
                                               + sized(modulus[:128]), 1),
        "rsa_exponent": b"p" + tpm_public(0x00050072, rsassa, struct.pack(">HI", 2048, 3) + sized(modulus), 1),
        "off_the_curve": b"p" + tpm_public(0x00050072, ecdsa, p256[:-1] + b"\0", 0x23),
        "reserved_attribute": b"p" + tpm_public(0x00050073, ecdsa, p256, 0x23),
        "ecdsa_with_rsa": b"p" + tpm_public(0x00050072, ecdsa, rsa, 1),
        "length_lies": b"b\xff\xff" + ak,
        "ecdsa_signature": b"s" + ecdsa + sized(bytes(range(1, 33))) + sized(bytes(range(33, 65))),
        "rsassa_signature": b"s" + rsassa + sized(bytes(256)),
        "rsapss_signature": b"s" + rsapss + sized(bytes(256)),
        "hmac_signature": b"s\0\x05\0\x0b" + bytes(32),
        "quote": b"q" + tpm_quote(banks),
        "certify": b"q" + tpm_quote(banks, kind=0x8017),
        "bank_twice": b"q" + tpm_quote(struct.pack(">I", 2) + b"\0\x0b\x03\1\0\0" * 2),
        "many_banks": b"q" + tpm_quote(struct.pack(">I", 2**32 - 1) + b"\0\x0b\x03\1\0\0"),
        "pcr_24": b"q" + tpm_quote(struct.pack(">I", 1) + b"\0\x0b\x04\0\0\0\1"),
        "cut_short": b"q" + tpm_quote(banks)[:-1],
    }


def tcg_event(register: int, kind: int, data: bytes, measured: bytes | None = None, agile: bool = True) -> bytes:
    measured = data if measured is None else measured
    sha1, sha256 = hashlib.sha1(measured).digest(), hashlib.sha256(measured).digest()
    if kind == 3:
        sha1, sha256 = bytes(20), bytes(32)
    digests = struct.pack("<IH", 2, 4) + sha1 + struct.pack("<H", 11) + sha256 if agile else sha1
    return struct.pack("<II", register, kind) + digests + struct.pack("<I", len(data)) + data


def efi_variable(name: str, content: bytes) -> bytes:
    vendor = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    return vendor + struct.pack("<QQ", len(name), len(content)) + name.encode("utf-16-le") + content


def event_log_seeds() -> dict[str, bytes]:
    header_data = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHHHB", 0, 0, 2, 0, 2, 2, 4, 20, 11, 32, 0)
    header = struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(header_data)) + header_data
    secure_boot = efi_variable("SecureBoot", b"\1")
    path = "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le")
    node = struct.pack("<BBH", 4, 4, 4 + len(path)) + path + b"\x7f\xff\4\0"
    image = struct.pack("<QQQQ", 0, 0, 0, len(node)) + node
    tag = struct.pack("<II", 0x8F3B22ED, 26) + b"LOADED_IMAGE::LoadOptions\0"
    boot = (
        tcg_event(0, 3, b"StartupLocality\0\3")
        + tcg_event(7, 0x80000001, secure_boot)
        + b"".join(tcg_event(i, 4, bytes(4)) for i in range(8))
        + tcg_event(1, 0x80000002, efi_variable("BootOrder", b"\1\0"), b"\1\0")
        + tcg_event(4, 0x80000007, b"Calling EFI Application from Boot Option")
        + tcg_event(4, 0x80000003, image, b"Authenticode")
        + tcg_event(8, 13, b"grub_cmd: linux /vmlinuz\0", b"linux /vmlinuz")
        + tcg_event(8, 13, b"kernel_cmdline: /vmlinuz ro\0", b"/vmlinuz ro")
        + tcg_event(9, 6, tag, b"options")
        + tcg_event(11, 13, ".linux\0".encode("utf-16-le"), b".linux\0")
        + tcg_event(11, 13, ".linux\0".encode("utf-16-le"), b"kernel")
    )
    return {
        "boot": header + boot,
        "padded": header + tcg_event(7, 4, bytes(4)) + b"\xff" * 40,
        "sha1_form": tcg_event(7, 0x80000001, secure_boot, agile=False) + tcg_event(7, 4, bytes(4), agile=False),
        "mismatched": header + tcg_event(7, 0x80000001, secure_boot, b"another"),
        "error_separator": header + tcg_event(0, 4, b"broken", b"\1\0\0\0"),
        "no_algorithms": header[:56] + bytes(4) + header[60:],
        "length_lies": header + tcg_event(0, 4, bytes(4))[:-8] + b"\xff\xff\xff\x7f" + bytes(4),
        "cut_short": (header + boot)[:200],
        "empty": b"",
    }


def ima_entry(name: bytes, fields: list[bytes], endian: str = "<", violation: bool = False) -> bytes:
    data = b"".join(struct.pack(endian + "I", len(field)) + field for field in fields)
    hashed = bytes(20) if violation else hashlib.sha1(data).digest()
    return (
        struct.pack(endian + "I", 10) + hashed + struct.pack(endian + "I", len(name)) + name
        + struct.pack(endian + "I", len(data)) + data
    )


def ima_binary_seeds() -> dict[str, bytes]:
    sha256 = b"sha256:\0" + bytes(range(32))
    verity = b"verity:sha256:\0" + bytes(range(32))
    signature = b"\3\2\4\1\2\3\4\0\4" + bytes(4)
    legacy = struct.pack("<I", 10) + hashlib.sha1(bytes(20) + b"/init".ljust(256, b"\0")).digest()
    legacy += struct.pack("<I", 3) + b"ima" + bytes(20) + struct.pack("<I", 5) + b"/init"
    return {
        "legacy": legacy,
        "ng": ima_entry(b"ima-ng", [sha256, b"/bin/a b\0"]) * 2,
        "big_endian": ima_entry(b"ima-ng", [sha256, b"/bin/x\0"], ">"),
        "sig": ima_entry(b"ima-sig", [sha256, b"/bin/x\0", signature]),
        "ngv2": ima_entry(b"ima-ngv2", [verity, b"/bin/x\0"]),
        "sigv2": ima_entry(b"ima-sigv2", [verity, b"/bin/x\0", b"\6\3" + signature[2:]]),
        "buf": ima_entry(b"ima-buf", [sha256, b"kexec-cmdline\0", b"ro"]),
        "modsig": ima_entry(b"ima-modsig", [sha256, b"/m.ko\0", b"", sha256, b"\x30\x82"]),
        "violation": ima_entry(b"ima-ng", [sha256[:8] + bytes(32), b"/x\0"], violation=True),
        "unknown_template": ima_entry(b"evm-sig", [sha256, b"/x\0"]),
        "no_nul": ima_entry(b"ima-ng", [sha256, b"/x"]),
        "cut_short": ima_entry(b"ima-ng", [sha256, b"/x\0"])[:-5],
    }


def ima_ascii_seeds() -> dict[str, bytes]:
    sha1, sha256 = "ab" * 20, "cd" * 32
    return {
        "legacy": f"10 {sha1} ima {sha1} /init\n".encode(),
        "ng": f"10 {sha1} ima-ng sha256:{sha256} /bin/a b\n".encode() * 2,
        "sig": f"10 {sha1} ima-sig sha256:{sha256} /bin/x 030204\n".encode(),
        "no_signature": f"10 {sha1} ima-sig sha256:{sha256} /bin/x \n".encode(),
        "ngv2": f"10 {sha1} ima-ngv2 verity:sha256:{sha256} /x\n".encode(),
        "buf": f"10 {sha1} ima-buf sha256:{sha256} kexec-cmdline 726f\n".encode(),
        "modsig": f"10 {sha1} ima-modsig sha256:{sha256} /m.ko  sha256:{sha256} 3082\n".encode(),
        "violation": f"10 {'0' * 40} ima-ng sha256:{'0' * 64} /x\n".encode(),
        "no_end": f"10 {sha1} ima-ng sha256:{sha256} /x".encode(),
        "odd_hex": f"10 {sha1} ima-sig sha256:{sha256} /x 0\n".encode(),
    }


def reference_values_seeds() -> dict[str, bytes]:
    digest = "sha256:" + "ab" * 32
    everything = {
        "pavise_reference_values": 1,
        "secure_boot": True,
        "registers": [{"bank": "sha256", "index": 7, "value": "ab" * 32, "source": "boot"}],
        "images": [{"digest": digest, "source": "boot"}],
        "command_lines": [{"text": "ro \"x\"", "source": "boot"}],
        "command_line_digests": [{"digest": digest, "source": "boot"}],
        "files": [
            {"path": "/bin/x", "digest": digest, "source": "tree"},
            {"path": "/bin/x", "digest": "verity:" + digest, "source": "tree"},
        ],
        "excludes": [{"pattern": "/tmp/*", "source": "us"}],
        "violations": [{"pattern": "/var/log/*", "source": "us"}],
    }
    twice = dict(everything, excludes=everything["excludes"] * 2)
    return {
        "everything": json.dumps(everything).encode(),
        "empty": b'{"pavise_reference_values":1}',
        "version_2": b'{"pavise_reference_values":2}',
        "twice": json.dumps(twice).encode(),
        "upper_case": json.dumps(everything).replace("ab", "AB").encode(),
        "unknown_member": b'{"pavise_reference_values":1,"x":[]}',
        "bad_key": b'{"pavise_reference_values":1,"keys":[{"pem":"x","key_id":"00000000","source":""}]}',
    }


def appraisal_policy_seeds() -> dict[str, bytes]:
    everything = {
        "pavise_appraisal_policy": 1,
        "required": ["tpm", "tee", "gpu"],
        "machines": [{"name": "node-1", "ids": ["ak:1", "gpu:2"]}],
        "require_co_location": True,
        "reference_values": ["a.json"],
        "driver_rims": ["driver.xml"],
        "vbios_rims": ["vbios.xml"],
        "tpm": {
            "attestation_keys": ["000b" + "ab" * 32],
            "allow_unbound_key": False,
            "accept_pinned_roots": True,
            "registers": {"sha1": [10], "sha256": [0, 23]},
            "event_log": True,
            "ima": False,
            "host_protections": True,
            "protection_exceptions": ["kexec"],
        },
        "snp": {
            "products": {"Milan": {"snp": 8, "microcode": 200}},
            "max_vmpl": 1,
            "min_guest_svn": 2,
            "allow_smt": False,
            "allow_migration_agent": False,
            "measurement": ["ab" * 48],
        },
        "intel": {
            "accepted_statuses": ["UpToDate", "SWHardeningNeeded"],
            "min_tcb_evaluation_data_number": 17,
            "mr_td": ["ab" * 48],
            "mr_enclave": ["ab" * 32],
        },
    }
    least = {"pavise_appraisal_policy": 1, "required": ["tpm"]}
    return {
        "everything": json.dumps(everything).encode(),
        "least": json.dumps(least).encode(),
        "version_2": json.dumps(least | {"pavise_appraisal_policy": 2}).encode(),
        "unknown_member": json.dumps(least | {"x": 1}).encode(),
        "doubled_member": b'{"pavise_appraisal_policy":1,"required":["tpm"],"tpm":{},"tpm":{}}',
        "revoked": json.dumps(least | {"intel": {"accepted_statuses": ["Revoked"]}}).encode(),
        "no_log": json.dumps(least | {"tpm": {"event_log": False}}).encode(),
        "register_24": json.dumps(least | {"tpm": {"registers": {"sha256": [24]}}}).encode(),
    }


def encoded(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def jwe_seeds() -> dict[str, bytes]:
    # The point of RFC 7518, appendix C.
    epk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0",
        "y": "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps",
    }
    header = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": epk}

    def message(head: dict, **more: object) -> bytes:
        members = {
            "protected": encoded(head),
            "encrypted_key": encoded(bytes(range(40))),
            "iv": encoded(bytes(12)),
            "ciphertext": encoded(b"x" * 32),
            "tag": encoded(bytes(16)),
        }
        return json.dumps(members | more).encode()

    unpointed = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}
    return {
        "ecdh": message(header),
        "ecdh_parties": message(header | {"apu": "QWxpY2U", "apv": "Qm9i"}),
        "additional": message(header, aad="YXNzZXQ"),
        "unprotected_point": message(unpointed, header={"epk": epk}),
        "rsa": message({"alg": "RSA-OAEP-256", "enc": "A256GCM"}),
        "crit": message(header | {"crit": ["exp"]}),
        "off_the_curve": message(header | {"epk": epk | {"y": epk["x"]}}),
        "short_tag": message(header, tag="AAAA"),
        "no_key": message(header, encrypted_key=""),
    }


def dsse_seeds() -> dict[str, bytes]:
    signature = {"keyid": "0123456789abcdef" * 4, "sig": base64.b64encode(bytes(64)).decode()}
    good = {
        "payloadType": "application/vnd.pavise.agreement+json",
        "payload": base64.b64encode(b'{"format":"pavise-agreement/1"}').decode(),
        "signatures": [signature],
    }
    two = [signature, signature | {"keyid": "f" * 64}]
    return {
        name: json.dumps(value).encode()
        for name, value in {
            "one": good,
            "two": good | {"signatures": two},
            "twice": good | {"signatures": [signature, signature]},
            "nobody": good | {"signatures": []},
            "empty_payload": good | {"payload": ""},
            "no_key_id": good | {"signatures": [{"sig": "AAAA"}]},
            "more": good | {"x": 1},
        }.items()
    }


def sealed_header_seeds() -> dict[str, bytes]:
    header = {
        "commitment": "02" * 32,
        "format": "pavise-sealed/1",
        "name": "llm",
        "padded": True,
        "payload_bytes": 1024,
        "salt": "01" * 32,
        "statement_sha256": "03" * 32,
    }

    def text(value: object) -> bytes:
        return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()

    recipients = [{"jwe": {"tag": "AA"}, "key_id": "a" * 64}, {"jwe": {}, "key_id": "b" * 64}]
    return {
        "header": text(header),
        "header_spaced": json.dumps(header).encode(),
        "header_huge": text(header | {"payload_bytes": 1 << 53}),
        "header_more": text(header | {"x": 1}),
        "recipients": text(recipients),
        "recipients_none": b"[]",
        "recipients_twice": text(recipients[:1] * 2),
        "prefix": b"PAVISESL" + struct.pack("<III", 1, 300, 2),
        "prefix_version": b"PAVISESL" + struct.pack("<III", 2, 300, 2),
        "prefix_long": b"PAVISESL" + struct.pack("<III", 1, 1 << 30, 2),
    }


def sealed_index_seeds() -> dict[str, bytes]:
    def index(files: list, signature: int = 0, count: int | None = None) -> bytes:
        out = struct.pack("<QQ", signature, len(files) if count is None else count)
        for path, flags, size in files:
            out += struct.pack("<H", len(path)) + path + struct.pack("<BQ", flags, size)
        return out

    return {
        "two": index([(b"a", 0, 5), (b"b/c", 1, 0)], 100),
        "none": index([]),
        "order": index([(b"b", 0, 1), (b"a", 0, 1)]),
        "below_a_file": index([(b"a", 0, 1), (b"a.b", 0, 1), (b"a/b", 0, 1)]),
        "leads_out": index([(b"../a", 0, 1)]),
        "absolute": index([(b"/a", 0, 1)]),
        "sum_wraps": index([(b"a", 0, 1 << 47), (b"b", 0, (1 << 64) - 1)]),
        "count": index([(b"a", 0, 1)], count=1 << 60),
        "flags": index([(b"a", 2, 1)]),
    }


def npy(shape: str, values: bytes, kind: str = "|u1") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values


def npz(members: dict[str, bytes], method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name + ".npy"), content, method)
    return out.getvalue()


def dataset_seeds() -> dict[str, bytes]:
    pixels = bytes(range(32))
    members = {
        "train_images": npy("(2, 4, 4)", pixels),
        "train_labels": npy("(2, 1)", b"\0\1"),
        "test_images": npy("(2, 4, 4)", pixels),
        "test_labels": npy("(2,)", struct.pack("<2q", 1, 0), "<i8"),
    }
    colour = members | {
        "train_images": npy("(1, 2, 2, 3)", pixels[:12]),
        "train_labels": npy("(1,)", struct.pack("<i", 3), "<i4"),
    }
    images = struct.pack(">4I", 0x0803, 2, 4, 4) + pixels
    labels = struct.pack(">2I", 0x0801, 8) + bytes(8)
    images_of_8 = struct.pack(">4I", 0x0803, 8, 2, 2) + pixels
    return {
        "cifar10": b"\0\0" + b"\7" + bytes(3072),
        "cifar10_label": b"\0\0" + b"\12" + bytes(3072),
        "npz_stored": b"\1\0" + npz(members, zipfile.ZIP_STORED),
        "npz_deflated": b"\1\0" + npz(members, zipfile.ZIP_DEFLATED),
        "npz_colour": b"\1\0" + npz(colour, zipfile.ZIP_STORED),
        "npz_empty": b"\1\0" + npz({}, zipfile.ZIP_STORED),
        "idx": b"\2\2" + labels + images_of_8,
        "idx_counts": b"\2\2" + labels + images,
        "idx_gzip": b"\2\2" + labels + gzip.compress(images_of_8, mtime=0),
    }


def main() -> None:
    for target, seeds in [
        ("json_fuzz", json_seeds()),
        ("jwe_fuzz", jwe_seeds()),
        ("dsse_fuzz", dsse_seeds()),
        ("sealed_header_fuzz", sealed_header_seeds()),
        ("sealed_index_fuzz", sealed_index_seeds()),
        ("safetensors_fuzz", safetensors_seeds()),
        ("gguf_fuzz", gguf_seeds()),
        ("tpm_structures_fuzz", tpm_seeds()),
        ("event_log_fuzz", event_log_seeds()),
        ("ima_binary_fuzz", ima_binary_seeds()),
        ("ima_ascii_fuzz", ima_ascii_seeds()),
        ("reference_values_fuzz", reference_values_seeds()),
        ("appraisal_policy_fuzz", appraisal_policy_seeds()),
        ("dataset_fuzz", dataset_seeds()),
    ]:
        for name, content in seeds.items():
            write(target, name, content)
        print(f"{target}: {len(seeds)} seeds")


if __name__ == "__main__":
    main()
