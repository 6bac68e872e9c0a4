#!/usr/bin/env python3
"""Writes the seeds of job_file_fuzz from docs/formats/job.md. Usage: make_job_corpus.py [FOLDER]"""

import pathlib
import sys

OUTPUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "corpus")

COMMON = """agreement: received
stage: train
broker: {url: "https://broker.example", authority: ca.pem}
assets: {trainer: trainer.sealed, scans: "https://files.example/scans.sealed"}
outputs: {tuned: [clinic, lab]}
output: out
"""
PLAIN = COMMON + "mode: tee\ncommand: [sh, -c, 'exit 0']\nevidence: {tcti: \"swtpm:path=/t\", tsm_report: /r}\n"
TRAIN = COMMON + """mode: obfuscated
machine: tee
scheme: shared
workers:
  - {address: "one.example:7700", operator: north}
  - {address: "[::1]:7700", operator: south}
worker_tls: {authority: a, certificate: c, key: k}
train: {data: scans, data_file: scans.npz, output: tuned, network: resnet18, epochs: 3, flip: true}
containment: {memory_mib: 8192, seconds: 3600, accept: [swap], read_only: [p], devices: [/dev/null], cgroup: /c}
ledger_reader: clinic.pem
"""
INFER = COMMON + "mode: obfuscated\nscheme: tempo\nworkers: in-process:2\ninfer: {model: base, data: scans, output: o}\n"


def write(name, text):
    folder = OUTPUT / "job_file_fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


write("command", PLAIN)
write("train", TRAIN)
write("infer", INFER)
write("twice", TRAIN + "stage: again\n")
write("alias", TRAIN.replace("operator: north", "operator: &n north"))
write("unknown", TRAIN + "secret: yes\n")
write("empty-worker", TRAIN.replace("{address: \"one.example:7700\", operator: north}", "{}"))
write("null", "agreement:\n")
