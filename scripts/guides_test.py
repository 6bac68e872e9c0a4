#!/usr/bin/env python3
"""Whether the commands that the documents show exist: every `pavise VERB --option` is held against the
manual page, which a test of the programs holds against them, and `pavise-worker` against its source."""

import pathlib
import re
import shlex
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MANUAL = ROOT / "docs/man/pavise.1"
WORKER_SOURCES = (ROOT / "pavise/offload/grpc/worker_main.cc",)
# What may stand before the program's name.
LEADERS = re.compile(r"sudo|[A-Z_]+=.*|\$|mpirun|srun|-n|[0-9]+|systemd-run|--scope|-p|Delegate=yes")
PROGRAMS = ("pavise", "pavise-agent", "pavise-train", "pavise-all")


def documents():
    names = ["README.md", "SECURITY.md", "CONTRIBUTING.md"]
    return [ROOT / name for name in names] + sorted((ROOT / "docs").rglob("*.md"))


def read_manual(text):
    """{"job plan": {"--help", ...}}; "" has the program's own options."""
    sections = {}
    current = None
    for line in text.replace(r"\-", "-").splitlines():
        if line.startswith(".SS pavise "):
            current = sections.setdefault(line.removeprefix(".SS pavise ").strip(), set())
        elif line.startswith(".SH"):
            current = sections.setdefault("", set()) if "OPTIONS OF THE PROGRAM" in line else None
        elif current is not None and line.startswith((r"\fB-", r"\fR-", ".B -")):
            current.update(re.findall(r"--[a-z0-9][a-z0-9-]*", line))
    return sections


def commands_of(text):
    """(line number, words) of each command of one of our programs, in blocks and in code spans."""
    found = []
    in_block = False
    pending, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_block = not in_block
            pending = ""
            continue
        if not in_block:
            for span in re.findall(r"`([^`:]+)`", line):  # `pavise stamp v1: ...` is a context
                found += [(number, words) for words in words_of(span)]
            continue
        if not pending:
            began = number
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        if pending.count("'") % 2 == 1 and pending.lstrip().startswith("pavise "):
            pending += " "  # a quoted text that goes on
            continue
        found += [(began, words) for words in words_of(pending)]
        pending = ""
    return found


def words_of(line):
    commands = []
    for part in re.split(r"&&|\|\||;|\|(?![a-z0-9])|\$\(", line):
        try:
            words = shlex.split(part, comments=True)
        except ValueError:  # a quote that goes on elsewhere
            words = part.split()
        while words and LEADERS.fullmatch(words[0]):
            words.pop(0)
        if words and pathlib.PurePath(words[0]).name in (*PROGRAMS, "pavise-worker"):
            commands.append([pathlib.PurePath(words[0]).name, *words[1:]])
    return commands


def faults_of(words, manual, worker):
    program, *rest = words
    if "--" in rest:
        rest = rest[: rest.index("--")]
    # Words of long options may be joined by - or _.
    options = [
        "--" + re.split(r"[=,.)]", word)[0][2:].replace("_", "-")
        for word in rest
        if re.match(r"^--[a-z]", word)
    ]
    if program == "pavise-worker":
        return [f"{option} is no option of pavise-worker" for option in options if option not in worker]
    names = []
    for word in rest:
        if not re.match(r"^[a-z][a-z-]*$", word) or " ".join([*names, word]) not in manual:
            break
        names.append(word)
    verb = " ".join(names)
    if not names:
        first = next((word for word in rest if re.match(r"^[a-z][a-z-]+$", word)), None)
        if rest and first == rest[0] and program == "pavise":
            return [f"there is no verb {first}"]
        if program != "pavise":
            return []
    known = manual.get(verb, set()) | manual[""]
    return [f"{option} is no option of pavise {verb}" for option in options if option not in known]


def worker_options():
    return {
        option
        for source in WORKER_SOURCES
        for option in re.findall(r'"(--[a-z-]+)', source.read_text(encoding="utf-8"))
    } | {"--help", "--version"}


class GuidesTest(unittest.TestCase):
    def test_every_command_exists(self):
        manual = read_manual(MANUAL.read_text(encoding="utf-8"))
        worker = worker_options()
        self.assertGreater(len(manual), 50)
        seen = 0
        faults = []
        for document in documents():
            for number, words in commands_of(document.read_text(encoding="utf-8")):
                seen += 1
                for fault in faults_of(words, manual, worker):
                    faults.append(f"{document.relative_to(ROOT)}:{number}: {fault}")
        self.assertEqual(faults, [])
        self.assertGreater(seen, 150)

    def test_what_does_not_exist_is_found(self):
        manual = {"": {"--json"}, "job": {"--help"}, "job plan": {"--help"}, "sign": {"--private-key"}}
        cases = {
            "pavise sign m --private-key k --json": [],
            "pavise sign m --private-keys k": ["--private-keys is no option of pavise sign"],
            "pavise job plan j.yaml --help": [],
            "pavise job plan j.yaml --private-key k": ["--private-key is no option of pavise job plan"],
            "pavise jobs plan": ["there is no verb jobs"],
            "true && pavise sing m": ["there is no verb sing"],
            "pavise run -- prog --anything": ["there is no verb run"],
            "pavise-worker --listens x": ["--listens is no option of pavise-worker"],
            "apt-get install --whatever": [],
        }
        for text, expected in cases.items():
            found = []
            for _, words in commands_of(f"```\n{text}\n```\n"):
                found += faults_of(words, manual, {"--listen"})
            self.assertEqual(found, expected, text)

    def test_lines_that_go_on_are_one(self):
        text = "```\npavise sign m \\\n  --private-key k\n```\nand `pavise sign --x`\n"
        self.assertEqual(
            commands_of(text),
            [(2, ["pavise", "sign", "m", "--private-key", "k"]), (5, ["pavise", "sign", "--x"])],
        )


if __name__ == "__main__":
    unittest.main()
