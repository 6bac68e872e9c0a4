#!/usr/bin/env python3
"""Training under each scheme beside plain training, on real data: do losses follow, and where does accuracy end?

Usage: bench/train.py --pavise PROGRAM --data FILE [--data ...] --output FOLDER [--images 5000] [--epochs 5] [--seeds 3]
       [--network resnet18] [--schemes none,tempo,orthogonal,shared] [--steps 100] [--batch-size 64]

For each dataset and seed: a run in the clear, and one under each scheme with workers in the same process, from the same
weights and over the same batches. Writes train.json and prints a table: the largest distance of the losses over the first
--steps steps, the final accuracies, and the spread of plain training over the seeds.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pavise", type=pathlib.Path, required=True)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--schemes", default="none,tempo,orthogonal,shared")
    return parser.parse_args()


def train(arguments, data, seed, scheme):
    folder = arguments.output / f"{pathlib.Path(data).stem}-{arguments.network}-{scheme or 'tee'}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        str(arguments.pavise), "train", "--json", "--no-signature", "--data", data, "--output", str(folder),
        *("--network", arguments.network, "--epochs", str(arguments.epochs), "--seed", str(seed)),
        *("--train-images", str(arguments.images), "--batch-size", str(arguments.batch_size)),
        *("--learning-rate", "0.02"),
    ]
    if scheme:
        workers = 3 if scheme == "shared" else 1
        command += ["--mode", "obfuscated", "--scheme", scheme, "--workers", f"in-process:{workers}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    result = json.loads(done.stdout)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{json.dumps(result, indent=1)}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    return {"accuracy": result["test_accuracy"], "losses": losses[: arguments.steps],
            "images_per_second": result["images_per_second"]}


def main():
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    schemes = ["", *arguments.schemes.split(",")]
    results = []
    for data in arguments.data:
        runs = {scheme: [train(arguments, data, seed, scheme) for seed in range(1, arguments.seeds + 1)]
                for scheme in schemes}
        for scheme in schemes:
            accuracies = [run["accuracy"] for run in runs[scheme]]
            apart = [max(abs(a - b) for a, b in zip(plain["losses"], hidden["losses"], strict=True))
                     for plain, hidden in zip(runs[""], runs[scheme], strict=True)]
            results.append({"data": pathlib.Path(data).name, "scheme": scheme or "tee", "accuracies": accuracies,
                            "losses_apart": apart,
                            "images_per_second": statistics.median(r["images_per_second"] for r in runs[scheme])})
    (arguments.output / "train.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"| data | scheme | losses apart, first {arguments.steps} steps | accuracy, lowest to highest | images/s |")
    print("|---|---|---|---|---|")
    for result in results:
        low, high = min(result["accuracies"]), max(result["accuracies"])
        print(f"| {result['data']} | {result['scheme']} | {max(result['losses_apart']):.2g} | "
              f"{100 * low:.1f}% to {100 * high:.1f}% | {result['images_per_second']:.0f} |")


if __name__ == "__main__":
    main()
