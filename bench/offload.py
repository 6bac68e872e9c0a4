#!/usr/bin/env python3
"""What a transformer block costs a coordinator with workers beside what it costs without: a table and an SVG.

Usage: bench/offload.py --program offload_block_bench --output FOLDER [--widths 256,768,2048,4096] [--types bf16,fp32]
       [--schemes tempo,orthogonal] [--cycles 3]

CPU seconds of one thread, medians (pavise/offload/onednn/block_bench.cc says what is in them). A checkpoint's cost is
added as one in 16 steps takes one. Writes offload.json, offload.md and speedup.svg.
"""

import argparse
import html
import json
import math
import pathlib
import subprocess
import sys

UPDATES_PER_CHECKPOINT = 16
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
        lines.append(
            f"| `{row['scheme']}`, {row['type']} | {row['width']} ({row['rows']:,}) | {row['tee_s']:.3f} s"
            f" | {row['coordinator_s']:.4f} s | {row['ratio']:.1f} | {speedup(row):.1f} | {row['checks']:.0%}"
            f" | {row['wire']:.0%} | {row['attention_s'] / row['coordinator_s']:.0%} |")
    return "\n".join(lines) + "\n"


def svg(rows):
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
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for scheme in arguments.schemes.split(","):
        for dtype in arguments.types.split(","):
            for width in map(int, arguments.widths.replace(" ", ",").split(",")):
                command = [str(arguments.program), scheme, dtype, str(width), str(arguments.cycles)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
                if done.returncode != 0:
                    sys.exit(f"{' '.join(command)}: exit code {done.returncode}")
                rows.append(json.loads(done.stdout))
                rows[-1]["ratio"] = rows[-1]["tee_s"] / rows[-1]["coordinator_s"]  # of the medians
                print(done.stdout, end="", flush=True)
                (arguments.output / "offload.json").write_text(json.dumps(rows, indent=1) + "\n")
    (arguments.output / "offload.md").write_text(table(rows))
    (arguments.output / "speedup.svg").write_text(svg(rows))
    print(table(rows), end="")


if __name__ == "__main__":
    main()
