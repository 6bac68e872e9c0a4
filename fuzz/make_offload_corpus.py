#!/usr/bin/env python3
"""Writes the seed corpus of the fuzz target of pavise/offload/grpc.

Deterministic, standard library only. The seeds are committed; run this again after a change of the
format:  python3 fuzz/make_offload_corpus.py
"""

import pathlib
import struct

FOLDER = pathlib.Path(__file__).resolve().parent / "corpus" / "offload_messages_fuzz"
COORDINATOR, WORKER = b"\x00", b"\x01"
PUT, FORWARD, BACKWARD, UPDATE, GET, PRODUCT, FORGET = range(7)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number: int, value) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(**fields) -> bytes:
    """Fields named f1, f2, ...; a list is a repeated field."""
    out = b""
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            out += field(int(name[1:]), item)
    return out


def frame(rows: int, columns: int, data: bytes, kind: int = 0, modulus: int = 0) -> tuple[bytes, bytes]:
    return message(f1=kind, f2=modulus, f3=rows, f4=columns, f5=len(data)), data


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def request(number: int, command: int, frames=(), **fields) -> list[bytes]:
    head = message(f1=number, f2=command, f6=[f for f, _ in frames], **fields)
    return [field(2, head)] + [field(3, data) for _, data in frames]


def reply(number: int, frames=(), **fields) -> list[bytes]:
    head = message(f1=number, f6=[f for f, _ in frames], **fields)
    return [field(2, head)] + [field(3, data) for _, data in frames]


def session(side: bytes, *parts: list[bytes]) -> bytes:
    return side + b"".join(
        struct.pack("<H", len(one)) + one for part in parts for one in part
    )


LAYER = message(f1=2, f2=2, f3=1, f4=4)
NATIVE = message(
    f1=1, f2=2, f3=4, f4=64,
    f6=message(f2=3, f3=3, f4=1, f5=2, f6=2, f7=1, f8=1),
)
RESIDUES = message(f1=2, f2=2, f3=1, f4=4, f5=[251, 241])
SGD = message(f1=0.5, f2=0.9, f3=0.01)
SQUARE = frame(2, 2, floats(1, 2, 3, 4))
ROW = frame(1, 2, floats(5, 6))

SEEDS = {
    "training": session(
        COORDINATOR,
        request(1, PUT, [SQUARE], f3=7, f4=1, f9=LAYER),
        request(2, FORWARD, [ROW], f3=7, f4=1, f5=1, f11=1),
        request(3, BACKWARD, [ROW], f3=7, f4=1, f5=1, f7=1, f12=1),
        [field(2, message(f1=4, f2=UPDATE, f3=7, f4=1, f13=SGD, f14=2, f15=2)),
         field(3, floats(1, 4)), field(3, floats(1, 0.25))],
        request(5, GET, f3=7, f4=2),
        request(6, FORGET, f3=7),
    ),
    "native": session(
        COORDINATOR,
        request(1, PUT, [frame(4, 2, floats(*range(8)))], f3=1, f4=1, f9=NATIVE),
        request(2, FORWARD, [frame(9, 1, floats(*range(9)))], f3=1, f4=1, f5=1, f10=1, f11=1),
        request(3, BACKWARD, [frame(16, 2, floats(*range(32)))], f3=1, f4=1, f5=1, f12=1),
        request(4, UPDATE, f3=1, f4=1),
    ),
    "residues": session(
        COORDINATOR,
        request(1, PUT, [frame(2, 2, b"\x01\x7d\x83\x00", 0, 251), frame(2, 2, b"\x01\x02\x03\x04", 0, 241)],
                f3=1, f4=1, f9=RESIDUES),
        request(2, FORWARD, [frame(1, 2, b"\x7d\x7d", 0, 251), frame(1, 2, b"\x05\x06", 0, 241)],
                f3=1, f4=1, f5=1, f11=1),
    ),
    "types": session(
        COORDINATOR,
        request(1, PRODUCT, [frame(1, 2, b"\x80\x3f\x00\x40", 1), frame(2, 1, b"\x00\x3c\x00\x40", 2)], f7=3, f8=1),
        request(2, PRODUCT, [frame(1, 1, floats(0.5) + b"\x7f", 3), frame(1, 1, floats(1))], f16=1),
    ),
    "refused_hello": session(WORKER, [field(1, message(f1=2))]),
    "worker": session(
        WORKER,
        [field(1, message(f1=1, f2=b"name", f3=b"cpu", f4=1 << 30, f5=[0, 1], f6=[0], f7=1, f8=1))],
        reply(1, [SQUARE], f2=FORWARD, f3=7, f4=1, f5=1),
        reply(2, f7=message(f1=b"state-missing", f2=b"layer 7", f3=b"gone", f4=b"put it")),
        reply(3, f8=b"the worker's machine failed"),
        reply(4, [frame(2, 2, b"\x01\x02\x03\x04", 0, 251)]),
    ),
}

FOLDER.mkdir(parents=True, exist_ok=True)
for seed, content in SEEDS.items():
    (FOLDER / seed).write_bytes(content)
