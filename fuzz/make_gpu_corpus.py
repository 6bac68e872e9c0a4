#!/usr/bin/env python3
"""Writes the seed inputs of the targets of GPUs, tokens and composite evidence into fuzz/corpus/.

The seeds are committed; run this again only to change them. Each run gives the same bytes.
Inputs that fuzzing finds are added beside them by hand, under names of their own.
"""

import base64
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def write(target: str, name: str, content: bytes) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def jwt_seeds() -> dict[str, bytes]:
    def token(header: bytes, claims: bytes, signature: bytes = b"") -> bytes:
        return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims, signature))

    return {
        "es256": token(b'{"alg":"ES256","typ":"JWT"}', b'{"iat":1}', bytes(range(64))),
        "none": token(b'{"alg":"none"}', b'{"iat":1}'),
        "es384": token(b'{"alg":"ES384"}', b"{}", bytes(96)),
        "crit": token(b'{"alg":"ES256","crit":["exp"]}', b"{}", bytes(64)),
        "kid": token(b'{"alg":"ES256","kid":"x"}', b"{}", bytes(64)),
        "short_signature": token(b'{"alg":"ES256"}', b"{}", bytes(range(63))),
        "two_parts": b"e30.e30",
        "padding": b"e30=.e30=.",
    }


def opaque_field(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", kind, len(value)) + value


OPAQUE = b"".join([
    opaque_field(3, b"550.144.03\0"), opaque_field(6, bytes([0, 0x5E, 0, 0x96, 1, 0, 0, 0])),
    opaque_field(11, b"\xaa"), opaque_field(12, bytes(16)), opaque_field(20, bytes(48)),
    opaque_field(21, b"\x55"), opaque_field(34, b"\0\0"),
])


def opaque_seeds() -> dict[str, bytes]:
    return {
        "every_field": OPAQUE,
        "empty": b"",
        "twice": opaque_field(3, b"1") * 2,
        "newer_version": opaque_field(34, b"\2\0"),
        "unknown_fields": opaque_field(0xFFFF, b"") + opaque_field(22, bytes(144)),
        "not_text": opaque_field(3, b"5\0\0006"),
        "length_lies": struct.pack("<HH", 3, 0xFFFF) + b"5",
    }


def spdm_report(blocks: list[bytes], opaque: bytes = OPAQUE, record: int | None = None, tail: bytes = b"") -> bytes:
    body = b"".join(struct.pack("<BBHBH", i + 1, 1, len(value) + 3, 1, len(value)) + value
                    for i, value in enumerate(blocks))
    size = len(body) if record is None else record
    return (bytes([0x11, 0xE0, 1, 0xFF]) + bytes(33) + bytes([0x11, 0x60, 0, 0, len(blocks)])
            + struct.pack("<I", size)[:3] + body + bytes(32) + struct.pack("<H", len(opaque)) + opaque
            + bytes(range(96)) + tail)


def spdm_seeds() -> dict[str, bytes]:
    two = [bytes(48), bytes(range(48))]
    good = spdm_report(two)
    return {
        "two_measurements": good,
        "trailing_byte": spdm_report(two, tail=b"\0"),
        "two_trailing_bytes": spdm_report(two, tail=b"\0\0"),
        "no_opaque_data": spdm_report(two, opaque=b""),
        "empty_measurement": spdm_report([b""]),
        "no_measurements": spdm_report([]),
        "record_lies": spdm_report(two, record=0xFFFFFF),
        "cut_short": good[:-1],
        "request_only": good[:37],
        "other_version": b"\x12" + good[1:],
    }


# Made with `openssl req -x509` for this corpus; its key is lost.
CERTIFICATE = (
    "MIIBsDCCATagAwIBAgIUW1m8Qssq0HeZGTeqm78pB2T179QwCgYIKoZIzj0EAwMwDzENMAsGA1UEAwwEc2VlZDAeFw0yNjExMjEx"
    "NDE4NTRaFw0zNjExMTgxNDE4NTRaMA8xDTALBgNVBAMMBHNlZWQwdjAQBgcqhkjOPQIBBgUrgQQAIgNiAAQIjEO/Ub3r/5puz2dB"
    "6qnP+Bgxm7vmFyIVVvTASwwdc3xUp6omA/C1m29GhPV1iT6u3xR1zUqhfAQK6c/G1wtp7ssbziUBRWofpYSSBdOtEfRFFmlvhHBy"
    "dYA1ZbnBohujUzBRMB0GA1UdDgQWBBSKcfhDpeuX6XzDIaEPfBQQ4mY77DAfBgNVHSMEGDAWgBSKcfhDpeuX6XzDIaEPfBQQ4mY7"
    "7DAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMDA2gAMGUCMCsnIDgVDfZtKU1NJj/K9xOHJVd2rJRI5xA/J5l9fZ7+XTZLI+Eh"
    "YTvEYnXEhY8wTwIxAJlMZjJXOgG4LWbm6XL737wMlGqD2DnjXUo9tgECjjg3up/uVWzxFMIjcuylWUxw2A=="
)


def rim(payload: str, signature: str = "", uri: str = "", before: str = "", more: str = "") -> bytes:
    dsig = "http://www.w3.org/2000/09/xmldsig#"
    c14n = "http://www.w3.org/2006/12/xml-c14n11"
    sha384 = "http://www.w3.org/2001/04/xmldsig-more#"
    signature = signature or (
        f'<Signature xmlns="{dsig}"><SignedInfo><CanonicalizationMethod Algorithm="{c14n}"/>'
        f'<SignatureMethod Algorithm="{sha384}ecdsa-sha384"/><Reference URI="{uri}"><Transforms>'
        f'<Transform Algorithm="{dsig}enveloped-signature"/><Transform Algorithm="{c14n}"/></Transforms>'
        f'<DigestMethod Algorithm="{sha384}sha384"/><DigestValue>AAAA</DigestValue></Reference></SignedInfo>'
        f"<SignatureValue>AAAA</SignatureValue><KeyInfo><X509Data><X509Certificate>{CERTIFICATE}"
        f"</X509Certificate></X509Data></KeyInfo></Signature>")
    return (f'{before}<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" '
            f'xmlns:h="http://www.w3.org/2001/04/xmlenc#sha384" name="GH100" tagId="t"><Entity/>'
            f'<Meta colloquialVersion="550.144.03"/><Payload>{payload}</Payload>{more}{signature}'
            f"</SoftwareIdentity>").encode()


def rim_seeds() -> dict[str, bytes]:
    def resource(index: int, active: str = "True", kind: str = "Measurement") -> str:
        return (f'<Resource type="{kind}" index="{index}" active="{active}" alternatives="2" h:Hash0="{"00" * 48}" '
                f'h:Hash1="{"ab" * 48}" name="m" size="48"/>')

    one = resource(1)
    return {
        "two_measurements": rim(one + resource(35, "False")),
        "twice": rim(one + one),
        "other_resource": rim(resource(1, kind="OpaqueData")),
        "index_too_large": rim(resource(255)),
        "unsigned": rim(one, signature="<x/>"),
        "reference_by_id": rim(one, uri="#t"),
        "second_signature": rim(one, more='<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"/>'),
        "declaration": rim(one, before="<!DOCTYPE SoftwareIdentity [<!ENTITY a 'b'>]>"),
        "comment": rim("<!-- x -->" + one),
        "cut_short": rim(one)[:-9],
        "empty": b"",
    }


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + struct.pack(">H", size)
    return bytes([tag]) + length + content


def gpu_certificate(*extensions: tuple[bytes, bytes]) -> bytes:
    """A P-384 certificate whose key is the curve's base point and whose signature means nothing."""
    algorithm = der(0x30, der(0x06, bytes.fromhex("2a8648ce3d040303")))
    name = der(0x30, der(0x31, der(0x30, der(0x06, bytes.fromhex("550403")), der(0x0C, b"seed"))))
    point = bytes.fromhex(
        "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7"
        "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f")
    key = der(0x30, der(0x30, der(0x06, bytes.fromhex("2a8648ce3d0201")), der(0x06, bytes.fromhex("2b81040022"))),
              der(0x03, b"\0" + point))
    times = der(0x30, der(0x17, b"230101000000Z"), der(0x17, b"330101000000Z"))
    listed = der(0x30, *(der(0x30, der(0x06, oid), der(0x04, value)) for oid, value in extensions))
    body = der(0x30, der(0xA0, der(0x02, b"\2")), der(0x02, b"\1"), algorithm, name, times, name, key,
               der(0xA3, listed))
    return der(0x30, body, algorithm, der(0x03, b"\0" + der(0x30, der(0x02, b"\1"), der(0x02, b"\1"))))


def device_certificate_seeds() -> dict[str, bytes]:
    composite, tcb_info = bytes.fromhex("678105050401"), bytes.fromhex("67810505040101")
    names = bytes.fromhex("551d11")
    firmware = der(0x30, der(0x06, bytes.fromhex("608648016503040202")), der(0x04, bytes(48)))
    hopper = der(0x30, der(0x02, b"\1"), der(0x30), firmware)
    blackwell = der(0x30, der(0x80, b"NVIDIA"), der(0xA6, firmware, firmware), der(0x89, b"\1\0"))

    def device(text: bytes) -> bytes:
        oid = der(0x06, bytes.fromhex("2b0601040183" "1c821201"))
        return der(0x30, der(0x82, b"a.b"), der(0xA0, oid, der(0xA0, der(0x0C, text))))

    return {
        "hopper": gpu_certificate((names, device(b"NVIDIA:GH100:1")), (composite, hopper)),
        "blackwell": gpu_certificate((names, device(b"NVIDIA:GB100:2")), (tcb_info, blackwell)),
        "both": gpu_certificate((composite, hopper), (tcb_info, blackwell)),
        "neither": gpu_certificate((names, der(0x30, der(0x82, b"a.b")))),
        "other_maker": gpu_certificate((names, device(b"AMD:GH100:1"))),
        "no_firmware": gpu_certificate((tcb_info, der(0x30, der(0xA6)))),
        "trailing": gpu_certificate((composite, hopper + b"\0")),
    }


def cbor(value: object) -> bytes:
    """Deterministic CBOR of what composite evidence is made of."""
    def head(major: int, size: int) -> bytes:
        if size < 24:
            return bytes([major << 5 | size])
        return bytes([major << 5 | 24, size]) if size < 256 else bytes([major << 5 | 25]) + struct.pack(">H", size)

    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value)) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    pairs = sorted((cbor(key), cbor(member)) for key, member in value.items())
    return head(5, len(pairs)) + b"".join(key + member for key, member in pairs)


def composite_seeds() -> dict[str, bytes]:
    gpu = {"format": "nvidia-spdm-1.1", "items": {"report": b"r", "certificates": b"c"}}
    tpm = {"format": "tpm-2.0",
           "items": {"quote": b"q", "signature": b"s", "attestation_key": b"a", "pcr_values": b"p"}}
    tee = {"format": "amd-sev-snp", "items": {"report": bytes(300)}}

    def evidence(parts: list, version: int = 1) -> dict:
        return {"nonce": bytes(32), "parts": parts, "version": version, "session_key": b"\x30\0"}

    def as_json(value: object) -> object:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, list):
            return [as_json(element) for element in value]
        if isinstance(value, dict):
            return {key: as_json(member) for key, member in value.items()}
        return value

    good = evidence([gpu, gpu, tpm, tee])
    return {
        "cbor": cbor(good),
        "cbor_one_part": cbor(evidence([tee])),
        "cbor_no_parts": cbor(evidence([])),
        "cbor_wrong_order": cbor(evidence([tpm, gpu])),
        "cbor_other_version": cbor(evidence([gpu], version=2)),
        "cbor_unknown_item": cbor(evidence([{"format": "intel-sgx", "items": {"quote": b"q", "x": b"y"}}])),
        "cbor_trailing": cbor(good) + b"\0",
        "cbor_cut_short": cbor(good)[:-1],
        "cbor_length_lies": cbor(good)[:40] + b"\x65parts\x9b" + b"\xff" * 8,
        "cbor_indefinite": b"\xbf" + cbor(good)[1:] + b"\xff",
        "json": json.dumps(as_json(good)).encode(),
        "json_other_version": json.dumps(as_json(evidence([gpu], version=2))).encode(),
        "json_missing_item": json.dumps(as_json(evidence([{"format": "intel-sgx", "items": {}}]))).encode(),
    }


def main() -> None:
    for target, seeds in [
        ("jwt_fuzz", jwt_seeds()),
        ("gpu_opaque_data_fuzz", opaque_seeds()),
        ("spdm_report_fuzz", spdm_seeds()),
        ("rim_fuzz", rim_seeds()),
        ("device_certificate_fuzz", device_certificate_seeds()),
        ("composite_evidence_fuzz", composite_seeds()),
    ]:
        for name, content in seeds.items():
            write(target, name, content)
        print(f"{target}: {len(seeds)} seeds")


if __name__ == "__main__":
    main()
