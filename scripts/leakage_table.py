#!/usr/bin/env python3
"""Measures the table of docs/leakage.md: `pavise audit` for each network and scheme, as Markdown.

Reports are kept in a folder; those that are there are not measured again, so that a run that was
stopped goes on.

    scripts/leakage_table.py build/release/bin/pavise-train pneumoniamnist.npz reports [ROW...]
"""

import json
import pathlib
import subprocess
import sys

# Images a step, layers that are attacked. Large networks by few images and one layer.
NETWORKS = {
    "mlp": (32, 1),
    "vit_tiny": (8, 2),
    "resnet18": (8, 1),
    "vgg11": (4, 1),
    "vit_small": (4, 1),
    "resnet50": (4, 1),
    "vgg16": (4, 1),
    "vit_base": (2, 1),
}
SCHEMES = ("tempo", "orthogonal", "shared")


def rows():
    """(name, options), the quickest first."""
    for network, (images, layers) in NETWORKS.items():
        for scheme in SCHEMES:
            options = ["--network", network, "--scheme", scheme, "--batch-size", str(images),
                       "--layers", str(layers)]
            yield f"{network}-{scheme}", options
            if network == "resnet18" and scheme != "shared":
                yield f"{network}-native-{scheme}", [*options, "--convolutions", "native"]


def measure(program, data, report, options):
    # Exit code 1: beyond its profile; the report is there all the same.
    done = subprocess.run(
        [program, "audit", "--data", data, "--assume-base", "1", "--threads", "1",
         "--report-json", report, "--quiet", *options], stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 1) or not report.exists():
        sys.exit(f"{report.stem}: exit code {done.returncode}")


def cell(attack):
    if attack["verdict"] == "not run":
        return "-"
    share, chance = round(100 * attack["share"]), round(100 * attack["chance"])
    text = f"{share}%"
    if attack["verdict"] != "held":
        text = f"**{text}**"
    if chance != 0:
        text += f" ({chance}%)"
    if attack["unprotected"] - attack["chance"] < 0.1:
        text += " †"
    return text + (" BEYOND" if attack["verdict"].startswith("BROKEN") else "")


def table(reports):
    names = list(reports)
    print("| attack (adversary has, besides the traffic) | "
          + " | ".join(name.replace("_", " ").replace("-", " ") for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for i, attack in enumerate(reports[names[0]]["attacks"]):
        needs = "" if attack["needs"] == "nothing" else f" ({attack['needs']})"
        cells = [cell(reports[name]["attacks"][i]) for name in names]
        print(f"| {attack['attack']}{needs} | " + " | ".join(cells) + " |")


def main():
    program, data, folder, *wanted = sys.argv[1:]
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    reports = {}
    for name, options in rows():
        if wanted and name not in wanted:
            continue
        report = folder / f"{name}.json"
        if not report.exists():
            measure(program, data, report, options)
        reports[name] = json.loads(report.read_text())
    table(reports)


if __name__ == "__main__":
    main()
