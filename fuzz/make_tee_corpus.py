#!/usr/bin/env python3
"""Writes the seed corpora of the fuzz targets below pavise/evidence/appraise/snp and intel.

Deterministic, standard library only. The seeds are committed; run this again after a change of a
parser:  python3 fuzz/make_tee_corpus.py
"""

import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"

# Self-signed, made for this corpus (openssl req -x509), with an SGX extension; its key was thrown away.
CERTIFICATE = b"""\
-----BEGIN CERTIFICATE-----
MIIDEDCCArWgAwIBAgIUF4tNCvZ/5gihcls7903FHiOyOGAwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGY29ycHVzMB4XDTI2MTEyMTE0MjEwNVoXDTM2MTExODE0MjEw
NVowETEPMA0GA1UEAwwGY29ycHVzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
smY8YLOboKItxhGCwEM8/fTUqN777efxFqDsC4tHnRmXSel3cUpicM5JfjTQZpkU
r4/tKRZ1B0kWMTZ+kTGS0aOCAekwggHlMIIBwgYJKoZIhvhNAQ0BBIIBszCCAa8w
HgYKKoZIhvhNAQ0BAQQQAAAAAAAAAAAAAAAAAAAAADCCAWMGCiqGSIb4TQENAQIw
ggFTMBAGCyqGSIb4TQENAQIBAgEBMBAGCyqGSIb4TQENAQICAgECMBAGCyqGSIb4
TQENAQIDAgEDMBAGCyqGSIb4TQENAQIEAgEEMBAGCyqGSIb4TQENAQIFAgEFMBAG
CyqGSIb4TQENAQIGAgEGMBAGCyqGSIb4TQENAQIHAgEHMBAGCyqGSIb4TQENAQII
AgEIMBAGCyqGSIb4TQENAQIJAgEJMBAGCyqGSIb4TQENAQIKAgEKMBAGCyqGSIb4
TQENAQILAgELMBAGCyqGSIb4TQENAQIMAgEMMBAGCyqGSIb4TQENAQINAgENMBAG
CyqGSIb4TQENAQIOAgEOMBAGCyqGSIb4TQENAQIPAgEPMBAGCyqGSIb4TQENAQIQ
AgEQMBAGCyqGSIb4TQENAQIRAgENMB8GCyqGSIb4TQENAQISBBAAAAAAAAAAAAAA
AAAAAAAAMBAGCiqGSIb4TQENAQMEAgAAMBQGCiqGSIb4TQENAQQEBgAAAAAAADAd
BgNVHQ4EFgQUxav4OGRNm2RE5mF4IHJ+eBOajzwwCgYIKoZIzj0EAwIDSQAwRgIh
AOCQqUTI6JT6bPcOWb7LIohFLZfJqkAvUwtW6ZNF53x4AiEA7w+5/W/A1AzC/g76
6y9OUVnETfZflPtD/+oLaeKhM18=
-----END CERTIFICATE-----
"""


def write(target: str, seeds: dict[str, bytes]) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in seeds.items():
        (folder / name).write_bytes(content)
    print(f"{target}: {len(seeds)} seeds")


def patched(content: bytes, offset: int, value: bytes) -> bytes:
    return content[:offset] + value + content[offset + len(value):]


def snp_report(version: int, cpu: bytes = b"", flags: int = 0) -> bytes:
    report = bytearray(1184)
    struct.pack_into("<IIQ", report, 0, version, 1, 0x30000)
    struct.pack_into("<I", report, 0x34, 1)
    struct.pack_into("<Q", report, 0x38, 0x4405000000000002)
    struct.pack_into("<I", report, 0x48, flags)
    report[0x50:0x90] = bytes(range(64))
    report[0x188:0x188 + len(cpu)] = cpu
    report[0x1a0:0x1e0] = bytes(range(64))
    report[0x2a0:0x2d0] = bytes(range(1, 49))
    report[0x2e8:0x318] = bytes(range(2, 50))
    return bytes(report)


def snp_seeds() -> dict[str, bytes]:
    milan = snp_report(2)
    return {
        "version_2": milan,
        "version_3_genoa": snp_report(3, b"\x19\x11\x01"),
        "version_5_turin_vlek": snp_report(5, b"\x1a\x02\x01", 4),
        "debug": patched(milan, 10, b"\x0b"),
        "unknown_policy_bit": patched(milan, 15, b"\x80"),
        "unknown_cpu": snp_report(3, b"\x17\x31\x01"),
        "masked_key": snp_report(2, flags=2),
        "unsigned": snp_report(2, flags=0x1c),
        "wide_signature": patched(milan, 0x2d0, b"\x01"),
        "cut_short": milan[:-1],
        "empty": b"",
    }


def sgx_body() -> bytes:
    return patched(patched(bytes(384), 48, b"\x05"), 320, bytes(range(64)))


def quote(version: int, tee: int, body: bytes, descriptor: bytes = b"", chain: bytes = CERTIFICATE) -> bytes:
    header = struct.pack("<HHIHH", version, 2, tee, 0, 0) + bytes.fromhex("939a7233f79c4ca9940a0db3957f0607") + bytes(20)
    enclave = sgx_body() + bytes(64) + struct.pack("<H", 32) + bytes(32) + struct.pack("<HI", 5, len(chain)) + chain
    if version >= 4:
        enclave = struct.pack("<HI", 6, len(enclave)) + enclave
    data = bytes(64) + bytes(64) + enclave
    return header + descriptor + body + struct.pack("<I", len(data)) + data


def quote_seeds() -> dict[str, bytes]:
    td = patched(bytes(584), 123, b"\x10")
    sgx = quote(3, 0, sgx_body())
    return {
        "sgx_3": sgx,
        "sgx_4": quote(4, 0, sgx_body()),
        "tdx_4": quote(4, 0x81, td),
        "tdx_5": quote(5, 0x81, td, struct.pack("<HI", 2, 584)),
        "tdx_5_of_15": quote(5, 0x81, td + bytes(64), struct.pack("<HI", 3, 648)),
        "padded": sgx + bytes(100),
        "trailing": sgx + b"x",
        "body_size_lies": quote(5, 0x81, td, struct.pack("<HI", 2, 0xffffffff)),
        "data_size_lies": patched(sgx, 48 + 384, b"\xff\xff\xff\xff"),
        "chain_with_nul": quote(4, 0x81, td, chain=CERTIFICATE + b"\0"),
        "no_chain": quote(4, 0x81, td, chain=b""),
        "version_2": patched(sgx, 0, b"\x02"),
        "cut_short": sgx[:-1],
        "empty": b"",
    }


def header(**more) -> dict:
    return {"issueDate": "2027-01-01T00:00:00Z", "nextUpdate": "2027-01-31T00:00:00Z",
            "tcbEvaluationDataNumber": 17, **more}


def level(tcb: dict, status: str = "UpToDate", **more) -> dict:
    return {"tcb": tcb, "tcbDate": "2026-06-01T00:00:00Z", "tcbStatus": status, **more}


def signed(member: str, body: dict | str) -> bytes:
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
    return ('{"%s":%s,"signature":"%s"}' % (member, text, "ab" * 64)).encode()


def tcb_info_seeds() -> dict[str, bytes]:
    components = [{"svn": i, "category": "BIOS"} for i in range(16)]
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    common = {"fmspc": "50806F000000", "pceId": "0000", "tcbType": 0}
    tdx = header(id="TDX", version=3, **common, tdxModule=module,
                 tdxModuleIdentities=[{"id": "TDX_01", **module, "tcbLevels": [level({"isvsvn": 3})]}],
                 tcbLevels=[level({"sgxtcbcomponents": components, "pcesvn": 13, "tdxtcbcomponents": components},
                                  "OutOfDate", advisoryIDs=["INTEL-SA-00001"])])
    sgx = header(version=2, **common, tcbLevels=[
        level({**{f"sgxtcbcomp{i:02}svn": i for i in range(1, 17)}, "pcesvn": 13})])
    return {
        "tdx_3": signed("tcbInfo", tdx),
        "sgx_2": signed("tcbInfo", sgx),
        "body": json.dumps(sgx).encode(),
        "unknown_status": signed("tcbInfo", {**sgx, "tcbLevels": [level(sgx["tcbLevels"][0]["tcb"], "Fine")]}),
        "bad_date": signed("tcbInfo", {**sgx, "issueDate": "2027-13-01T00:00:00Z"}),
        "brackets_in_strings": signed("tcbInfo", '{"a":"}\\\\\\"{","tcbInfo":[{}]}'),
        "escaped_name": signed("tcb\\u0049nfo", {}),
        "twice": b'{"tcbInfo":{},' + signed("tcbInfo", {})[1:],
        "empty": b"",
    }


def identity_seeds() -> dict[str, bytes]:
    identity = header(id="TD_QE", version=2, miscselect="00000000", miscselectMask="FFFFFFFF", attributes="11" + "00" * 15,
                      attributesMask="FB" + "FF" * 7 + "00" * 8, mrsigner="DC" * 32, isvprodid=2,
                      tcbLevels=[level({"isvsvn": 8}), level({"isvsvn": 4}, "Revoked")])
    return {
        "td_qe": signed("enclaveIdentity", identity),
        "body": json.dumps(identity).encode(),
        "short_mask": signed("enclaveIdentity", {**identity, "miscselectMask": "FF"}),
        "wide_number": signed("enclaveIdentity", {**identity, "isvprodid": 65536}),
        "white_space": json.dumps({"signature": "ab" * 64, "enclaveIdentity": identity}, indent=2).encode(),
        "no_signature": b'{"enclaveIdentity":{}}',
        "empty": b"",
    }


if __name__ == "__main__":
    write("snp_report_fuzz", snp_seeds())
    write("intel_quote_fuzz", quote_seeds())
    write("tcb_info_fuzz", tcb_info_seeds())
    write("qe_identity_fuzz", identity_seeds())
