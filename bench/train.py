#!/usr/bin/env python3
"""Training under each scheme beside plain training, on real data: do losses follow, and where does accuracy end?

Usage: bench/train.py --pavise PROGRAM --data FILE [--data ...] --output FOLDER [--images 5000] [--epochs 5] [--seeds 3]
       [--network resnet18] [--schemes none,tempo,orthogonal,shared] [--steps 100] [--batch-size 64] [--steps-only]
       [--convolutions im2col] [--threads 0]

For each dataset and seed: a run in the clear, and one under each scheme with workers in the same process, from the same
weights and over the same batches. Writes train.json and prints a table: the largest distance of the losses over the first
--steps steps, the final accuracies, and the spread of plain training over the seeds. --steps-only trains no longer than
--steps, in as few epochs as --images allow. What is done is kept: the same command goes on with the runs that are missing,
and prints what there is after each seed.
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
    parser.add_argument("--steps-only", action="store_true")
    parser.add_argument("--convolutions", choices=["im2col", "native"], default="im2col")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--schemes", default="none,tempo,orthogonal,shared")
    return parser.parse_args()


def run_command(arguments, data, seed, scheme, folder):
    images, epochs = arguments.images, arguments.epochs
    if arguments.steps_only:
        epochs = -(-arguments.steps * arguments.batch_size // arguments.images)
        images = -(-arguments.steps // epochs) * arguments.batch_size
    command = [
        str(arguments.pavise), "train", "--json", "--no-signature", "--data", data, "--output", str(folder),
        *("--network", arguments.network, "--epochs", str(epochs), "--seed", str(seed)),
        *("--train-images", str(images), "--batch-size", str(arguments.batch_size)),
        *("--learning-rate", "0.02", "--threads", str(arguments.threads)),
    ]
    if arguments.steps_only:
        command += ["--test-images", str(2 * arguments.batch_size)]
    if scheme:
        workers = 3 if scheme == "shared" else 1
        # Residues are not checked in convolutions by the worker.
        form = "im2col" if scheme == "shared" else arguments.convolutions
        command += ["--mode", "obfuscated", "--scheme", scheme, "--workers", f"in-process:{workers}",
                    "--convolutions", form]
    return command


def train(arguments, data, seed, scheme):
    folder = arguments.output / f"{pathlib.Path(data).stem}-{arguments.network}-{scheme or 'tee'}-{seed}"
    command = run_command(arguments, data, seed, scheme, folder)
    kept = folder / "result.json"
    if kept.exists():
        result = json.loads(kept.read_text())
        if result["command"] == command:
            return result
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    reported = json.loads(done.stdout)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{json.dumps(reported, indent=1)}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    result = {"command": command, "accuracy": reported["test_accuracy"], "losses": losses[: arguments.steps],
              "images_per_second": reported["images_per_second"]}
    kept.write_text(json.dumps(result) + "\n")
    return result


def summary(data, runs):
    """Of the seeds that every scheme has run."""
    rows = []
    for scheme, results in runs.items():
        apart = [[abs(a - b) for a, b in zip(plain["losses"], hidden["losses"], strict=True)]
                 for plain, hidden in zip(runs[""], results, strict=True)]
        rows.append({"data": pathlib.Path(data).name, "scheme": scheme or "tee", "seeds": len(results),
                     "steps": len(results[0]["losses"]),
                     "accuracies": [run["accuracy"] for run in results],
                     "losses_apart": [max(distances) for distances in apart],
                     "mean_losses_apart": [statistics.mean(distances) for distances in apart],
                     "images_per_second": statistics.median(r["images_per_second"] for r in results)})
    return rows


def report(arguments, results):
    (arguments.output / "train.json").write_text(json.dumps(results, indent=1) + "\n")
    print("| data | scheme | seeds | losses apart, at most | on average | accuracy, lowest to highest | images/s |")
    print("|---|---|---|---|---|---|---|")
    for result in results:
        low, high = min(result["accuracies"]), max(result["accuracies"])
        print(f"| {result['data']} | {result['scheme']} | {result['seeds']} | {max(result['losses_apart']):.2g} | "
              f"{statistics.mean(result['mean_losses_apart']):.2g} | {100 * low:.1f}% to {100 * high:.1f}% | "
              f"{result['images_per_second']:.0f} |", flush=True)


def main():
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    schemes = ["", *(scheme for scheme in arguments.schemes.split(",") if scheme)]
    results = []
    for data in arguments.data:
        runs = {scheme: [] for scheme in schemes}
        for seed in range(1, arguments.seeds + 1):
            for scheme in schemes:
                runs[scheme].append(train(arguments, data, seed, scheme))
            report(arguments, results + summary(data, runs))
        results += summary(data, runs)


if __name__ == "__main__":
    main()
