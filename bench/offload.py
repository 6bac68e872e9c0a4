#!/usr/bin/env python3
"""What a transformer block, and networks, cost a coordinator with workers beside what they cost without: tables and an SVG.

Usage: bench/offload.py --program offload_block_bench --output FOLDER [--widths 256,768,2048,4096] [--types bf16,fp32]
       [--schemes tempo,orthogonal] [--cycles 3] [--attention here,workers]
       [--network-program train_network_bench [--networks resnet50,vit_base] [--batch 2] [--steps 3]
        [--convolutions im2col,native]]

CPU seconds of one thread, medians (pavise/offload/onednn/block_bench.cc and pavise/train/torch/network_bench.cc say what
is in them). A checkpoint's cost is added as one in 16 steps takes one. From 8192 on each side of a block has a process
of its own, and there are no checkpoints. Writes offload.json, offload.md and speedup.svg.
"""

import argparse
import html
import json
import math
import os
import pathlib
import subprocess
import sys

UPDATES_PER_CHECKPOINT = 16
SEPARATE_FROM = 8192  # 24 GiB do not hold both sides
LOSS_TOLERANCE = 0.05  # numbers travel as bf16, and a network is deep
# Netlib's reference BLAS does 3 to 5, OpenBLAS on one thread of a server some 100.
LEAST_BLAS_GFLOPS = 20
STYLE = """
  svg { --page: #ffffff; --ink: #1a1a1a; --faint: #d0d0d0; --c0: #005a9e; --c1: #b34700; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #14161a; --ink: #ececec; --faint: #3a3d44; --c0: #6cb8ff; --c1: #ffa04d; } }
  text { fill: var(--ink); font-family: sans-serif; font-size: 13px; }
  .title { font-size: 17px; font-weight: bold; }
  .page { fill: var(--page); } .grid { stroke: var(--faint); stroke-width: 1; }
  .line { fill: none; stroke-width: 2; }
"""
WIDTH, HEIGHT = 420, 280
LEFT, TOP = 70, 80


def speedup(row):
    return row["tee_s"] / (row["coordinator_s"] + row["checkpoint_s"] / UPDATES_PER_CHECKPOINT)


def table(rows):
    lines = [
        "| scheme, type | width (rows) | alone | coordinator | speed-up | with checkpoints | checks | encryption | attention |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        attention = ", attention's products by workers" if row["attention"] == "workers" else ""
        checkpoints = "-" if row["side"] == "separate" else f"{speedup(row):.1f}"
        lines.append(
            f"| `{row['scheme']}`, {row['type']}{attention} | {row['width']} ({row['rows']:,}) | {row['tee_s']:.3f} s"
            f" | {row['coordinator_s']:.4f} s | {row['ratio']:.1f} | {checkpoints} | {row['checks']:.0%}"
            f" | {row['wire']:.0%} | {row['attention_s'] / row['coordinator_s']:.0%} |")
    return "\n".join(lines) + "\n"


def network_table(rows):
    lines = ["| network, images a step | scheme, type | alone | coordinator | speed-up | checks | encryption |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        form = f", {row['convolutions']}" if row["network"].startswith(("resnet", "vgg")) else ""
        lines.append(f"| {row['network']}, {row['batch']} | `{row['mode']}`, {row['type']}{form} | {row['tee_s']:.3f} s"
                     f" | {row['step_s']:.3f} s | {row['tee_s'] / row['step_s']:.1f} | {row['checks']:.0%}"
                     f" | {row['wire']:.0%} |")
    return "\n".join(lines) + "\n"


def run(command, **environment):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False,
                          env=dict(os.environ, **environment))
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}")
    print(done.stdout, end="", flush=True)
    return json.loads(done.stdout)


def measure_block(program, scheme, dtype, width, cycles, attention):
    command = [program, scheme, dtype, width, cycles]
    if width < SEPARATE_FROM:
        row = run(command + ["both", attention])
    else:
        alone = run(command + ["alone"])
        row = run(command + ["coordinator", attention]) | {"side": "separate", "tee_s": alone["tee_s"]}
        # The same elements of the results of both.
        off = math.dist(alone["sampled"], row["sampled"]) / math.hypot(*alone["sampled"])
        if not off < (0.04 if dtype == "bf16" else 1e-4):
            sys.exit(f"{scheme}, {dtype}, {width}: the two sides' results differ by {off:.3g}")
    row["ratio"] = row["tee_s"] / row["coordinator_s"]  # of the medians
    return row


def measure_networks(arguments):
    # OpenBLAS takes newer CPUs for older ones unless it is told (pavise/cli/train_main.cc).
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    flags = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8") if pathlib.Path("/proc/cpuinfo").exists() else ""
    if " avx512dq" in flags and " avx512vl" in flags:
        environment["OPENBLAS_CORETYPE"] = os.environ.get("OPENBLAS_CORETYPE", "SKYLAKEX")
    rows = []
    for network in arguments.networks.split(","):
        command = [arguments.network_program, network]
        tee = run(command + ["tee", "bf16", arguments.batch, arguments.steps], **environment)
        if tee["blas_gflops"] < LEAST_BLAS_GFLOPS:
            sys.exit(f"libtorch's BLAS does {tee['blas_gflops']:.1f} GFLOP/s: not this CPU's speed; install OpenBLAS "
                     "(libopenblas0-pthread), or nothing would be compared with it")
        for scheme in arguments.schemes.split(","):
            forms = arguments.convolutions.split(",") if network.startswith(("resnet", "vgg")) else ["im2col"]
            for form in forms:
                row = run(command + [scheme, "bf16", arguments.batch, arguments.steps, form], **environment)
                if not abs(row["first_loss"] - tee["first_loss"]) <= LOSS_TOLERANCE * max(1, abs(tee["first_loss"])):
                    sys.exit(f"{network}, {scheme}, {form}: the first loss is not that of training alone")
                rows.append(row | {"tee_s": tee["step_s"]})
    return rows


def svg(rows):
    rows = [row for row in rows if row["attention"] == "here"]
    widths = sorted({row["width"] for row in rows})
    low, high = math.log2(widths[0]), math.log2(max(widths[-1], widths[0] * 2))
    top = max(2, math.ceil(math.log2(max(row["ratio"] for row in rows))))
    bottom = min(0, math.floor(math.log2(min(row["ratio"] for row in rows))))

    def place(width, ratio):
        return (LEFT + (math.log2(width) - low) / (high - low) * WIDTH,
                TOP + (1 - (math.log2(ratio) - bottom) / (top - bottom)) * HEIGHT)

    names = sorted({(row["scheme"], row["type"]) for row in rows}, reverse=True)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 190} {TOP + HEIGHT + 70}" role="img">',
        "<title>Speed-up of a transformer block's coordinator against width</title>",
        f"<style>{STYLE}</style>", '<rect class="page" width="100%" height="100%"/>',
        f'<text class="title" x="{LEFT}" y="30">A transformer block: CPU seconds alone / as coordinator</text>',
        f'<text x="{LEFT}" y="52">One thread; forward, backward, update; checks and encryption included</text>',
    ]
    for power in range(bottom, top + 1):
        _, y = place(widths[0], 2**power)
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}h{WIDTH}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{2**power:g}x</text>')
    for width in widths:
        x, _ = place(width, 1)
        out.append(f'<path class="grid" d="M{x:.1f} {TOP}v{HEIGHT}"/>')
        out.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{width}</text>')
    out.append(f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 44}" text-anchor="middle">width of the block</text>')
    for index, (scheme, dtype) in enumerate(names):
        colour = "var(--c0)" if scheme == "tempo" else "var(--c1)"
        stroke = f'stroke="{colour}" stroke-dasharray="{"none" if dtype == "bf16" else "6 4"}"'
        points = [place(row["width"], row["ratio"]) for row in rows if (row["scheme"], row["type"]) == (scheme, dtype)]
        out.append(f'<polyline class="line" {stroke} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        for x, y in points:
            mark = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"' if scheme == "tempo"
                    else f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"')
            out.append(f'{mark} style="fill: {colour}"/>')
        y = TOP + 16 + 22 * index
        out.append(f'<path class="line" {stroke} d="M{LEFT + WIDTH + 16} {y - 4}h30"/>')
        out.append(f'<text x="{LEFT + WIDTH + 54}" y="{y}">{html.escape(scheme)}, {dtype}</text>')
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--widths", default="256,768,2048,4096")
    parser.add_argument("--types", default="bf16,fp32")
    parser.add_argument("--schemes", default="tempo,orthogonal")
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--attention", default="here")
    parser.add_argument("--network-program", type=pathlib.Path)
    parser.add_argument("--networks", default="resnet50,vit_base")
    parser.add_argument("--convolutions", default="im2col,native")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for scheme in arguments.schemes.split(","):
        for dtype in arguments.types.split(","):
            for width in map(int, arguments.widths.replace(" ", ",").split(",")):
                for attention in arguments.attention.split(","):
                    rows.append(measure_block(arguments.program, scheme, dtype, width, arguments.cycles, attention))
                    (arguments.output / "offload.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = table(rows)
    if any(row["attention"] == "here" for row in rows):
        (arguments.output / "speedup.svg").write_text(svg(rows))
    if arguments.network_program is not None:
        networks = measure_networks(arguments)
        (arguments.output / "networks.json").write_text(json.dumps(networks, indent=1) + "\n")
        text += "\n" + network_table(networks)
    (arguments.output / "offload.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
