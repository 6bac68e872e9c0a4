#!/usr/bin/env python3
"""Writes the seed corpus of the fuzz target in pavise/agent, from docs/formats/provenance.md.

Deterministic, standard library only. The seeds are committed; run this again after a change of the
format:  python3 fuzz/make_provenance_corpus.py
"""

import json
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent / "corpus" / "provenance_fuzz"


def canonical(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def statement(outputs=("weights",), materials=(("trainer", "code"), ("scans", "data"))):
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": "1" * 64}, "annotations": {"sealed": "2" * 64}} for name in outputs
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:pavise:run:1",
                "externalParameters": {
                    "agreement": "3" * 64,
                    "version": 1,
                    "agreementPayload": "3" * 64,
                    "stage": "train",
                    "mode": "measured",
                    "purpose": "to learn",
                    "command": ["/code/train", "--epochs", "3"],
                },
                "internalParameters": {"notEnforced": ["swap"]},
                "resolvedDependencies": [
                    {"name": name, "annotations": {"kind": kind, "sealed": "4" * 64, "statement": "5" * 64}}
                    for name, kind in materials
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:pavise:agent"},
                "metadata": {
                    "invocationId": "6" * 32,
                    "startedOn": "2027-01-15T08:00:00Z",
                    "finishedOn": "2027-01-15T09:00:00Z",
                },
                "byproducts": [
                    {"name": "evidence", "digest": {"sha256": "7" * 64}},
                    {"name": "attestation-token", "annotations": {"token": "e30.e30.AA"}},
                    {"name": "ledger-entry", "annotations": {"index": 17}},
                ],
            },
        },
    }


def changed(path, value):
    whole = statement()
    place = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return whole


DEFINITION = ("predicate", "buildDefinition")
DETAILS = ("predicate", "runDetails")
SEEDS = {
    "whole": statement(),
    "two_outputs": statement(outputs=("log", "weights")),
    "unsorted_outputs": statement(outputs=("weights", "log")),
    "same_output_twice": statement(outputs=("weights", "weights")),
    "no_output": statement(outputs=()),
    "no_material": statement(materials=()),
    "another_type": changed((*DEFINITION, "buildType"), "urn:pavise:run:2"),
    "endless": changed((*DETAILS, "metadata", "finishedOn"), "infinite-future"),
    "negative_index": changed((*DETAILS, "byproducts", 2, "annotations", "index"), -1),
    "large_index": changed((*DETAILS, "byproducts", 2, "annotations", "index"), 2**64 - 1),
    "four_byproducts": changed((*DETAILS, "byproducts"), [{}, {}, {}, {}]),
    "control_characters": changed((*DEFINITION, "externalParameters", "purpose"), "\x01\u2028\U0001f600"),
    "more_members": changed(("more",), 1),
    "not_an_object": [],
}


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, value in SEEDS.items():
        (FOLDER / name).write_text(canonical(value))
    (FOLDER / "spaced").write_text(json.dumps(statement()))
    print(f"provenance_fuzz: {len(SEEDS) + 1} seeds")


if __name__ == "__main__":
    main()
