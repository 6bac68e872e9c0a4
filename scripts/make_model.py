#!/usr/bin/env python3
"""Writes a safetensors model with the tensor table of a small Llama and reproducible BF16 values.

Usage: make_model.py DIRECTORY [--size SIZE] [--shards N] [--seed N]

What is there already and complete is left alone. The sizes are those of real models: up to 3 GiB the
layers of TinyLlama 1.1B (hidden 2048, its 22 layers make 2.05 GiB), above that those of Llama 7B
(hidden 4096); SIZE chooses how many layers: as many as reach it.
"""

import argparse
import json
import math
import pathlib
import random
import shutil
import struct
import sys
import time

MIB = 1 << 20
BLOCK_BYTES = 64 * MIB
PIECE_BYTES = 4 * MIB
BF16_BYTES = 2

SMALL = {"hidden": 2048, "intermediate": 5632, "heads": 32, "kv_heads": 4}
LARGE = {"hidden": 4096, "intermediate": 11008, "heads": 32, "kv_heads": 32}
VOCABULARY = 32000


def parse_size(text):
    units = {"MiB": MIB, "GiB": 1 << 30, "MB": 10**6, "GB": 10**9}
    for unit, factor in units.items():
        if text.endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def layer_tensors(shape, layer):
    hidden, intermediate = shape["hidden"], shape["intermediate"]
    key_value = hidden // shape["heads"] * shape["kv_heads"]
    prefix = f"model.layers.{layer}."
    return [
        (prefix + "input_layernorm.weight", [hidden]),
        (prefix + "mlp.down_proj.weight", [hidden, intermediate]),
        (prefix + "mlp.gate_proj.weight", [intermediate, hidden]),
        (prefix + "mlp.up_proj.weight", [intermediate, hidden]),
        (prefix + "post_attention_layernorm.weight", [hidden]),
        (prefix + "self_attn.k_proj.weight", [key_value, hidden]),
        (prefix + "self_attn.o_proj.weight", [hidden, hidden]),
        (prefix + "self_attn.q_proj.weight", [hidden, hidden]),
        (prefix + "self_attn.v_proj.weight", [key_value, hidden]),
    ]


def tensor_bytes(dimensions):
    size = BF16_BYTES
    for dimension in dimensions:
        size *= dimension
    return size


def plan(size_bytes):
    """The shape, the number of layers, and all tensors (name, dimensions)."""
    shape = SMALL if size_bytes <= 3 << 30 else LARGE
    hidden = shape["hidden"]
    outer = [
        ("lm_head.weight", [VOCABULARY, hidden]),
        ("model.embed_tokens.weight", [VOCABULARY, hidden]),
        ("model.norm.weight", [hidden]),
    ]
    outer_bytes = sum(tensor_bytes(dimensions) for _, dimensions in outer)
    layer_bytes = sum(tensor_bytes(dimensions) for _, dimensions in layer_tensors(shape, 0))
    layers = max(1, math.ceil((size_bytes - outer_bytes) / layer_bytes))
    tensors = outer[:2]
    for layer in range(layers):
        tensors += layer_tensors(shape, layer)
    return shape, layers, tensors + outer[2:]


def safetensors_header(tensors):
    table = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dimensions in tensors:
        end = offset + tensor_bytes(dimensions)
        table[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, offset


def value_block(generator):
    """64 MiB of BF16 values of the size that weights have: sign and a small exponent, random bits."""
    exponents = [sign | exponent for sign in (0x00, 0x80) for exponent in (0x3A, 0x3B, 0x3C, 0x3D)]
    table = bytes(exponents[byte % len(exponents)] for byte in range(256))
    block = bytearray(generator.randbytes(BLOCK_BYTES))
    block[1::2] = block[1::2].translate(table)
    return bytes(block)


def write_values(file, size_bytes, block, generator):
    view = memoryview(block)
    while size_bytes > 0:
        length = min(size_bytes, PIECE_BYTES)
        # Anywhere in the block, at a whole value: no two pieces of a file are the same.
        begin = 2 * generator.randrange((BLOCK_BYTES - length) // 2)
        file.write(view[begin : begin + length])
        size_bytes -= length


def split(tensors, shards):
    """The tensors in `shards` runs of about the same size."""
    total = sum(tensor_bytes(dimensions) for _, dimensions in tensors)
    runs = [[]]
    written = 0
    for index, (name, dimensions) in enumerate(tensors):
        left = len(tensors) - index
        if runs[-1] and len(runs) < shards and (
            written >= total * len(runs) / shards or left <= shards - len(runs)
        ):
            runs.append([])
        runs[-1].append((name, dimensions))
        written += tensor_bytes(dimensions)
    return runs


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--size", type=parse_size, default=2 << 30)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.size < 1 or arguments.shards < 1:
        parser.error("--size and --shards are at least 1")

    shape, layers, tensors = plan(arguments.size)
    runs = split(tensors, arguments.shards)
    count = len(runs)
    names = ["model.safetensors"]
    if count > 1:
        names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    headers = [safetensors_header(run) for run in runs]
    sizes = {
        name: len(header) + data_bytes for name, (header, data_bytes) in zip(names, headers)
    }
    directory = arguments.directory
    # Written last, so that its presence says that the rest is complete.
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["intermediate"],
        "model_type": "llama",
        "num_attention_heads": shape["heads"],
        "num_hidden_layers": layers,
        "num_key_value_heads": shape["kv_heads"],
        "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY,
    }
    settings_text = json.dumps(settings, indent=2) + "\n"
    complete = directory / "config.json"
    if (
        complete.is_file()
        and complete.read_text() == settings_text
        and {path.name: path.stat().st_size for path in directory.glob("*.safetensors")} == sizes
    ):
        print(f"{directory}: {sum(sizes.values())} bytes, there already")
        return 0

    if directory.exists():
        # Only what an earlier run wrote: a directory with anything else in it is somebody's.
        foreign = [
            path.name
            for path in directory.iterdir()
            if not (path.name.startswith("model") or path.name == "config.json")
        ]
        if foreign:
            print(f"{directory} holds {foreign[0]}: not a model of this script", file=sys.stderr)
            return 1
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    needed = sum(sizes.values())
    free = shutil.disk_usage(directory).free
    if free < needed + 64 * MIB:
        print(f"{directory}: needs {needed} bytes of disk, {free} are free", file=sys.stderr)
        return 1

    begin = time.monotonic()
    generator = random.Random(arguments.seed)
    block = value_block(generator)
    for name, (header, data_bytes) in zip(names, headers):
        with open(directory / name, "wb", buffering=0) as file:
            file.write(header)
            write_values(file, data_bytes, block, generator)
    if count > 1:
        weights = {tensor: name for name, run in zip(names, runs) for tensor, _ in run}
        index = {"metadata": {"total_size": sum(size for _, size in headers)}, "weight_map": weights}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    complete.write_text(settings_text)
    seconds = time.monotonic() - begin
    print(f"{directory}: {len(tensors)} tensors, {needed} bytes, written in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
