#!/usr/bin/env python3
"""Interoperability with the reference tool, run in its virtual environment (see run.sh).

Usage: interop_test.py PAVISE [PATTERN]     only the cases whose name contains PATTERN

One line a case, "PASS: name" or "FAIL: name: why", and a summary. Every case in which something is
accepted has partners in which both tools must refuse: a flipped byte, a missing file, an added file, a
wrong key.
"""

import base64
import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
import warnings

warnings.filterwarnings("ignore")

# The reference tool.
from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from model_signing import _cli  # noqa: E402
from model_signing import hashing  # noqa: E402
from model_signing import signing  # noqa: E402
from model_signing import verifying  # noqa: E402
from model_signing._signing import sign_ec_key  # noqa: E402
from model_signing._signing import sign_sigstore_pb  # noqa: E402
from model_signing._signing import signing as payloads  # noqa: E402

CURVES = {"p256": "prime256v1", "p384": "secp384r1", "p521": "secp521r1"}
# Our name of a digest, the reference API's.
HASHES = {"sha256": "sha256", "blake2b": "blake2", "blake3": "blake3"}
SHARD_BYTES = 1000
PASSWORD = "correct horse"
GIT_PATHS = [".git", ".gitattributes", ".github", ".gitignore"]

CASES = []


class Failure(Exception):
    pass


def case(function):
    CASES.append((function.__name__.replace("_", " "), function))
    return function


def cases(**parameters):
    """One case for each value of the one parameter."""
    ((name, values),) = parameters.items()

    def register(function):
        for value in values:
            title = f"{function.__name__.replace('_', ' ')}, {value}"
            CASES.append((title, lambda bench, v=value: function(bench, **{name: v})))
        return function

    return register


def safetensors(tensors):
    """A safetensors file of `tensors`: name -> bytes, one dimension of U8 each."""
    table = {}
    offset = 0
    for name, data in tensors.items():
        table[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    header = json.dumps(table).encode()
    return struct.pack("<Q", len(header)) + header + b"".join(tensors.values())


def pattern(size_bytes, first=0):
    """Bytes that repeat every 251, so that swapped blocks show."""
    return bytes((first + i) % 251 for i in range(size_bytes))


MODEL = {
    "model.safetensors": safetensors({"embed": pattern(3000), "layers.0.weight": pattern(5000, 7)}),
    "config.json": b'{"model_type": "llama"}\n',
    "empty.txt": b"",
    "nested/deeper/weights.bin": pattern(2_100_000, 3),
    "nested/deeper/one.txt": b"1",
    "nested.d/order.txt": b"'.' sorts before '/'",
    "nested-a/order.txt": b"'-' sorts before '.'",
    "Upper/case.txt": b"upper",
    "with space/a b.txt": b"space",
    "percent%20/sign.txt": b"no escape",
    "unicode/\u00e9-composed.txt": b"composed",
    "unicode/e\u0301-decomposed.txt": b"decomposed",
    "unicode/\u6a21\u578b.bin": pattern(1024),
    "unicode/\U0001f6e1.bin": pattern(1025),
    "edges/999": pattern(SHARD_BYTES - 1),
    "edges/1000": pattern(SHARD_BYTES),
    "edges/1001": pattern(SHARD_BYTES + 1),
    "edges/11000": pattern(11 * SHARD_BYTES),
}
VICTIM = "nested/deeper/weights.bin"


class Bench:
    """A fresh directory with a model and keys, and both tools to use on them."""

    def __init__(self, pavise, directory, keys):
        self.pavise_path = pavise
        self.directory = pathlib.Path(directory)
        self.keys = keys
        self.model = self.directory / "model"
        self.signature = self.directory / "model.sig"
        self.write(MODEL)

    def write(self, files):
        for name, content in files.items():
            path = self.model / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    # --- the tools; each answers (accepted, what it said)

    def pavise(self, *arguments):
        process = subprocess.run(
            [self.pavise_path, *map(str, arguments)],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        said = process.stdout + process.stderr
        if process.returncode not in (0, 1):
            raise Failure(f"pavise {arguments[0]}: exit code {process.returncode}: {said}")
        return process.returncode == 0, said

    def reference_cli(self, *arguments):
        """The reference tool's command line. A forked process calls its entry point, which saves
        importing it anew each time."""
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if child == 0:
                code = 70
                try:
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                    os.chdir(self.directory)
                    sys.argv = ["model_signing", *map(str, arguments)]
                    _cli.main()
                    code = 0
                except SystemExit as exit_request:
                    code = exit_request.code if isinstance(exit_request.code, int) else 0
                    code = 1 if exit_request.code and not code else code
                except BaseException:  # noqa: BLE001 (whatever it is, the parent has to hear of it)
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
        code = os.waitstatus_to_exitcode(status)
        # 2 is click's usage error: this script's mistake, no verdict.
        if code not in (0, 1):
            raise Failure(f"reference tool {' '.join(map(str, arguments))}: exit code {code}: {said}")
        return code == 0, said

    def reference_api(self, function):
        try:
            function()
        except Exception as error:  # noqa: BLE001 (the reference raises many kinds)
            return False, f"{type(error).__name__}: {error}"
        return True, ""

    # --- keys

    def key(self, curve="p256"):
        return self.keys / f"{curve}.pem"

    def public_key(self, curve="p256"):
        return self.keys / f"{curve}.pub"

    # --- signing and verifying with each

    def pavise_sign(self, *options, curve="p256"):
        require(
            self.pavise(
                "sign", self.model, "--signature", self.signature, "--private-key", self.key(curve),
                *options,
            )
        )

    def pavise_verify(self, *options, curve="p256"):
        return self.pavise(
            "verify", self.model, "--signature", self.signature, "--public-key",
            self.public_key(curve), *options,
        )

    def reference_sign(self, *options, curve="p256"):
        require(
            self.reference_cli(
                "sign", "key", self.model, "--signature", self.signature, "--private_key",
                self.key(curve), *options,
            )
        )

    def reference_verify(self, *options, curve="p256"):
        return self.reference_cli(
            "verify", "key", self.model, "--signature", self.signature, "--public_key",
            self.public_key(curve), *options,
        )

    def hashing_config(self, method, hash_name):
        config = hashing.Config()
        if method == "shards":
            config.use_shard_serialization(
                hashing_algorithm=HASHES[hash_name], shard_size=SHARD_BYTES
            )
        else:
            config.use_file_serialization(hashing_algorithm=HASHES[hash_name])
        return config.set_ignored_paths(paths=[], ignore_git_paths=True)

    def reference_api_sign(self, method, hash_name):
        config = signing.Config().use_elliptic_key_signer(private_key=self.key())
        config.set_hashing_config(self.hashing_config(method, hash_name))
        require(self.reference_api(lambda: config.sign(self.model, self.signature)))

    def reference_api_verify(self, method, hash_name):
        config = verifying.Config().use_elliptic_key_verifier(public_key=self.public_key())
        config.set_hashing_config(self.hashing_config(method, hash_name))
        return self.reference_api(lambda: config.verify(self.model, self.signature))

    # --- tampering

    def both_refuse_changes(self, verify, reference_verify, changes=None):
        """Both accept; then each change is made, refused by both, and undone; then both accept."""
        both = (("pavise", verify), ("the reference tool", reference_verify))
        for tool, run in both:
            require(run(), f"{tool}, before any change")
        for name, (make, undo) in (changes or self.changes()).items():
            make()
            for tool, run in both:
                refuse(run(), f"{tool}: {name}")
            undo()
        for tool, run in both:
            require(run(), f"{tool}, after all changes were undone")

    def changes(self):
        victim = self.model / VICTIM
        content = victim.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        other = self.model / "config.json"
        added = self.model / "nested/added.txt"
        moved = self.directory / "moved"
        return {
            "a flipped bit": (
                lambda: victim.write_bytes(bytes(flipped)),
                lambda: victim.write_bytes(content),
            ),
            "a file cut short": (
                lambda: victim.write_bytes(content[:-1]),
                lambda: victim.write_bytes(content),
            ),
            "a file that grew": (
                lambda: victim.write_bytes(content + b"\0"),
                lambda: victim.write_bytes(content),
            ),
            "a missing file": (lambda: victim.rename(moved), lambda: moved.rename(victim)),
            "an added file": (lambda: added.write_bytes(b"x"), added.unlink),
            "a renamed file": (
                lambda: victim.rename(added),
                lambda: added.rename(victim),
            ),
            "two files swapped": (
                lambda: (victim.rename(moved), other.rename(victim), moved.rename(other)),
                lambda: (victim.rename(moved), other.rename(victim), moved.rename(other)),
            ),
        }


def require(answer, what=""):
    accepted, said = answer
    if not accepted:
        raise Failure(f"{what or 'refused'}: {said.strip()}")


def refuse(answer, what):
    accepted, said = answer
    if accepted:
        raise Failure(f"{what} was accepted: {said.strip()}")


# --------------------------------------------------------------------------- key method, files, SHA-256


@cases(curve=CURVES)
def we_sign_with_a_key_and_their_command_line_verifies(bench, curve):
    bench.pavise_sign(curve=curve)
    bench.both_refuse_changes(
        lambda: bench.pavise_verify(curve=curve), lambda: bench.reference_verify(curve=curve)
    )


@cases(curve=CURVES)
def they_sign_with_a_key_and_we_verify(bench, curve):
    bench.reference_sign(curve=curve)
    bench.both_refuse_changes(
        lambda: bench.pavise_verify(curve=curve), lambda: bench.reference_verify(curve=curve)
    )


@case
def we_sign_without_annotations(bench):
    bench.pavise_sign("--no-annotations")
    bench.both_refuse_changes(bench.pavise_verify, bench.reference_verify)


@case
def every_digest_we_sign_is_true_to_the_reference(bench):
    # What the reference checks (OMS) and what it does not know (annotations), in one pass.
    bench.pavise_sign()
    bench.both_refuse_changes(
        lambda: bench.pavise_verify("--all-digests"), bench.reference_verify
    )


@case
def annotations_are_there_and_do_not_disturb(bench):
    bench.pavise_sign()
    payload = payload_of(bench.signature)
    annotated = [
        resource for resource in payload["predicate"]["resources"] if "annotations" in resource
    ]
    if len(annotated) != len(MODEL):
        raise Failure(f"{len(annotated)} of {len(MODEL)} files are annotated")
    require(bench.reference_verify())


@case
def a_key_that_openssl_made(bench):
    key = bench.directory / "openssl.pem"
    public = bench.directory / "openssl.pub"
    openssl("ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", key)
    openssl("ec", "-in", key, "-pubout", "-out", public)
    require(
        bench.pavise("sign", bench.model, "--signature", bench.signature, "--private-key", key)
    )
    require(
        bench.reference_cli(
            "verify", "key", bench.model, "--signature", bench.signature, "--public_key", public
        )
    )
    require(
        bench.pavise("verify", bench.model, "--signature", bench.signature, "--public-key", public)
    )


@case
def an_encrypted_key_of_ours(bench):
    key = bench.directory / "encrypted.pem"
    password_file = bench.directory / "password"
    password_file.write_text(PASSWORD + "\n")
    require(bench.pavise("keygen", "-o", key, "--password-file", password_file))
    public = key.with_suffix(".pub")
    # Through the API, with bytes: the command line hands its --password on as text, which fails.
    config = signing.Config().use_elliptic_key_signer(private_key=key, password=PASSWORD.encode())
    config.set_hashing_config(bench.hashing_config("files", "sha256"))
    for sign in (
        lambda: bench.reference_api(lambda: config.sign(bench.model, bench.signature)),
        lambda: bench.pavise(
            "sign", bench.model, "--signature", bench.signature, "--private-key", key,
            "--password-file", password_file,
        ),
    ):
        bench.signature.unlink(missing_ok=True)
        require(sign())
        require(
            bench.pavise(
                "verify", bench.model, "--signature", bench.signature, "--public-key", public
            )
        )
        require(
            bench.reference_cli(
                "verify", "key", bench.model, "--signature", bench.signature, "--public_key", public
            )
        )
    password_file.write_text("another\n")
    refuse(
        bench.pavise(
            "sign", bench.model, "--signature", bench.signature, "--private-key", key,
            "--password-file", password_file,
        ),
        "pavise: a wrong password",
    )


@cases(signer=["pavise", "reference"])
def the_wrong_key_is_refused(bench, signer):
    if signer == "pavise":
        bench.pavise_sign()
    else:
        bench.reference_sign()
    other = bench.directory / "other.pem"
    require(bench.pavise("keygen", "-o", other))
    public = other.with_suffix(".pub")
    verify = lambda: bench.pavise(  # noqa: E731
        "verify", bench.model, "--signature", bench.signature, "--public-key", public
    )
    reference_verify = lambda: bench.reference_cli(  # noqa: E731
        "verify", "key", bench.model, "--signature", bench.signature, "--public_key", public
    )
    refuse(verify(), "pavise: a key that did not sign")
    refuse(reference_verify(), "the reference tool: a key that did not sign")
    # The hint, which is not signed, must not be what decides.
    bundle = json.loads(bench.signature.read_text())
    hint = hashlib.sha256(public.read_bytes()).hexdigest()
    bundle["verificationMaterial"]["publicKey"]["hint"] = hint
    bench.signature.write_text(json.dumps(bundle))
    refuse(verify(), "pavise: a key that did not sign, with its hint")
    refuse(reference_verify(), "the reference tool: a key that did not sign, with its hint")


@cases(signer=["pavise", "reference"])
def a_changed_signature_file_is_refused(bench, signer):
    if signer == "pavise":
        bench.pavise_sign()
    else:
        bench.reference_sign()
    original = bench.signature.read_text()

    def write(change):
        bundle = json.loads(original)
        change(bundle)
        bench.signature.write_text(json.dumps(bundle))

    def change_payload(bundle):
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"]).replace(b"config.json", b"c0nfig.json")
        envelope["payload"] = base64.b64encode(payload).decode()

    def change_signature(bundle):
        signature = bundle["dsseEnvelope"]["signatures"][0]
        der = bytearray(base64.b64decode(signature["sig"]))
        der[-1] ^= 1
        signature["sig"] = base64.b64encode(der).decode()

    def change_hint(bundle):
        bundle["verificationMaterial"]["publicKey"]["hint"] = "00" * 32

    def change_media_type(bundle):
        bundle["mediaType"] = "application/vnd.dev.sigstore.bundle.v9+json"

    def change_payload_type(bundle):
        bundle["dsseEnvelope"]["payloadType"] = "text/plain"

    def change_nothing(_):
        pass

    bench.both_refuse_changes(
        bench.pavise_verify,
        bench.reference_verify,
        {
            change.__name__.replace("_", " "): (
                lambda change=change: write(change),
                lambda: write(change_nothing),
            )
            for change in (
                change_payload, change_signature, change_hint, change_media_type,
                change_payload_type,
            )
        },
    )


# ------------------------------------------------------------------------------- shapes of models


@cases(signer=["pavise", "reference"])
def a_model_of_one_file(bench, signer):
    bench.model = bench.directory / "single.safetensors"
    bench.model.write_bytes(MODEL["model.safetensors"])
    if signer == "pavise":
        bench.pavise_sign()
    else:
        bench.reference_sign()
    content = bench.model.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 0x80])
    bench.both_refuse_changes(
        bench.pavise_verify,
        bench.reference_verify,
        {
            "a flipped bit": (
                lambda: bench.model.write_bytes(flipped),
                lambda: bench.model.write_bytes(content),
            ),
            "a file cut short": (
                lambda: bench.model.write_bytes(content[:-1]),
                lambda: bench.model.write_bytes(content),
            ),
        },
    )


@cases(signer=["pavise", "reference"])
def ignored_paths(bench, signer):
    bench.write({"logs/today.txt": b"1", "scratch.bin": b"2"})
    options = [
        "--ignore-paths", bench.model / "logs", "--ignore-paths", bench.model / "scratch.bin",
    ]
    if signer == "pavise":
        bench.pavise_sign(*options)
    else:
        bench.reference_sign(*options)
    # What was left out may change, and be gone; what was signed may not.
    (bench.model / "logs/today.txt").write_bytes(b"another day")
    (bench.model / "logs/tomorrow.txt").write_bytes(b"new")
    (bench.model / "scratch.bin").unlink()
    bench.both_refuse_changes(bench.pavise_verify, bench.reference_verify)


@cases(signer=["pavise", "reference"])
def git_paths_are_left_out(bench, signer):
    bench.write(
        {".git/HEAD": b"ref", ".gitattributes": b"*", ".github/x": b"x", ".gitignore": b"y",
         "nested/.gitignore": b"below the top it is a file like any other"}
    )
    if signer == "pavise":
        bench.pavise_sign()
    else:
        bench.reference_sign()
    (bench.model / ".git/HEAD").write_bytes(b"other")
    below = bench.model / "nested/.gitignore"
    content = below.read_bytes()
    bench.both_refuse_changes(
        bench.pavise_verify,
        bench.reference_verify,
        {
            "a changed .gitignore below the top": (
                lambda: below.write_bytes(b"other"),
                lambda: below.write_bytes(content),
            )
        },
    )


@cases(signer=["pavise", "reference"])
def git_paths_are_signed_on_request(bench, signer):
    bench.write({".git/HEAD": b"ref", ".gitattributes": b"*"})
    option = "--no-ignore-git-paths"
    if signer == "pavise":
        bench.pavise_sign(option)
    else:
        bench.reference_sign(option)
    head = bench.model / ".git/HEAD"
    bench.both_refuse_changes(
        lambda: bench.pavise_verify(option),
        lambda: bench.reference_verify(option),
        {
            "a changed .git/HEAD": (
                lambda: head.write_bytes(b"other"),
                lambda: head.write_bytes(b"ref"),
            )
        },
    )


@cases(signer=["pavise", "reference"])
def the_signature_inside_the_model(bench, signer):
    bench.signature = bench.model / "model.sig"
    if signer == "pavise":
        # The reference knows nothing of the tree file, which would be an unsigned file to it.
        bench.pavise_sign("--tree", bench.directory / "model.sig.tree")
        verify = lambda: bench.pavise_verify("--tree", bench.directory / "model.sig.tree")  # noqa: E731
    else:
        bench.reference_sign()
        verify = bench.pavise_verify
    bench.both_refuse_changes(verify, bench.reference_verify)


@case
def our_signature_and_tree_file_inside_the_model(bench):
    bench.signature = bench.model / "model.sig"
    bench.pavise_sign()
    bench.both_refuse_changes(bench.pavise_verify, bench.reference_verify)


@cases(signer=["pavise", "reference"])
def symbolic_links(bench, signer):
    outside = bench.directory / "outside"
    outside.mkdir()
    (outside / "linked.bin").write_bytes(pattern(500))
    (bench.model / "link.bin").symlink_to(outside / "linked.bin")
    (bench.model / "link_inside.json").symlink_to("config.json")
    sign = {"pavise": bench.pavise, "reference": bench.reference_cli}[signer]
    without = (
        ("sign", bench.model, "--signature", bench.signature, "--private-key", bench.key())
        if signer == "pavise"
        else ("sign", "key", bench.model, "--signature", bench.signature, "--private_key",
              bench.key())
    )
    refuse(sign(*without), "signing a link without --allow-symlinks")
    if signer == "pavise":
        bench.pavise_sign("--allow-symlinks")
    else:
        bench.reference_sign("--allow_symlinks")
    require(bench.pavise_verify("--allow-symlinks"), "pavise")
    require(bench.reference_verify("--allow_symlinks"), "the reference tool")
    refuse(bench.pavise_verify(), "pavise: a link without --allow-symlinks")
    (outside / "linked.bin").write_bytes(pattern(500, 1))
    refuse(bench.pavise_verify("--allow-symlinks"), "pavise: changed behind the link")
    refuse(
        bench.reference_verify("--allow_symlinks"), "the reference tool: changed behind the link"
    )


@cases(signer=["pavise", "reference"])
def unsigned_files_are_ignored_on_request(bench, signer):
    if signer == "pavise":
        bench.pavise_sign()
    else:
        bench.reference_sign()
    bench.write({"added.txt": b"x", "more/added.txt": b"y"})
    refuse(bench.pavise_verify(), "pavise: an added file")
    refuse(bench.reference_verify(), "the reference tool: an added file")
    require(bench.pavise_verify("--ignore-unsigned-files"), "pavise")
    require(bench.reference_verify("--ignore_unsigned_files"), "the reference tool")
    (bench.model / "config.json").write_bytes(b"{}")
    refuse(bench.pavise_verify("--ignore-unsigned-files"), "pavise: a changed file")
    refuse(
        bench.reference_verify("--ignore_unsigned_files"), "the reference tool: a changed file"
    )


@case
def an_empty_model_is_not_signed(bench):
    # The specification demands a refusal; the reference tool accepts.
    empty = bench.directory / "empty"
    empty.mkdir()
    refuse(
        bench.pavise("sign", empty, "--signature", bench.signature, "--private-key", bench.key()),
        "an empty model",
    )
    if bench.signature.exists():
        raise Failure("a refusal wrote a signature")


# ------------------------------------------------------- their API: other digests, shards (both ways)

METHODS = ["files sha256", "files blake2b", "files blake3", "shards sha256", "shards blake2b"]


def method_options(method, hash_name):
    options = ["--hash", hash_name, "--method", method]
    return options + ["--shard-size", SHARD_BYTES] if method == "shards" else options


@cases(method=METHODS)
def we_sign_and_their_api_verifies(bench, method):
    method, hash_name = method.split()
    bench.pavise_sign(*method_options(method, hash_name))
    bench.both_refuse_changes(
        bench.pavise_verify, lambda: bench.reference_api_verify(method, hash_name)
    )


@cases(method=METHODS)
def their_api_signs_and_we_verify(bench, method):
    method, hash_name = method.split()
    bench.reference_api_sign(method, hash_name)
    bench.both_refuse_changes(
        bench.pavise_verify, lambda: bench.reference_api_verify(method, hash_name)
    )


@cases(method=METHODS)
def every_digest_is_the_same(bench, method):
    method, hash_name = method.split()
    bench.pavise_sign("--no-annotations", *method_options(method, hash_name))
    theirs = bench.hashing_config(method, hash_name).hash(bench.model)
    ours = payload_of(bench.signature)
    # In another order: the reference sorts by path components, the specification by code points.
    mine = {r["name"]: r["digest"] for r in ours["predicate"]["resources"]}
    reference = {d.identifier: d.digest.digest_hex for d in theirs.resource_descriptors()}
    if mine != reference:
        raise Failure(f"{set(mine.items()) ^ set(reference.items())}")
    names = [r["name"] for r in ours["predicate"]["resources"]]
    if method == "files" and names != sorted(names):
        raise Failure(f"not in the specification's order: {names}")


@cases(hash_name=HASHES)
def the_root_digest_is_the_same(bench, hash_name):
    # In a model where both orders are one.
    shutil.rmtree(bench.model)
    bench.write({"a.bin": pattern(5000), "b/c.bin": pattern(2_000_000), "d": b"", "e.txt": b"e"})
    bench.pavise_sign("--hash", hash_name)
    theirs = payloads.Payload(bench.hashing_config("files", hash_name).hash(bench.model)).statement.pb
    subject = payload_of(bench.signature)["subject"][0]
    expected = {"name": theirs.subject[0].name, "digest": dict(theirs.subject[0].digest)}
    if {"name": subject["name"], "digest": subject["digest"]} != expected:
        raise Failure(f"{subject}, the reference has {expected}")
    require(bench.reference_api_verify("files", hash_name))


@case
def a_colon_in_a_name(bench):
    # The reference signs and verifies it by files, but cannot read the shard names that it writes.
    bench.write({"name:with:colons.txt": b"x", "range:0:13": pattern(13)})
    bench.pavise_sign()
    bench.both_refuse_changes(bench.pavise_verify, bench.reference_verify)
    bench.reference_sign()
    bench.both_refuse_changes(bench.pavise_verify, bench.reference_verify)
    bench.pavise_sign(*method_options("shards", "sha256"))
    require(bench.pavise_verify(), "pavise, shards")


@case
def shards_of_blake3(bench):
    # To the reference BLAKE3 is parallel as it is: it makes files of them. What we write under this
    # name, if anything, it has to accept.
    arguments = [
        "sign", bench.model, "--signature", bench.signature, "--private-key", bench.key(),
        *method_options("shards", "blake3"),
    ]
    process = subprocess.run(
        [bench.pavise_path, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if process.returncode in (1, 2) and not bench.signature.exists():
        return
    if process.returncode != 0:
        raise Failure(f"exit code {process.returncode}: {process.stderr}")
    require(bench.pavise_verify(), "pavise")
    require(bench.reference_api_verify("shards", "blake3"), "the reference tool")


# ----------------------------------------------------------------------------- certificate method


@cases(curve=CURVES)
def we_sign_with_a_certificate_and_they_verify(bench, curve):
    certificates = make_certificates(bench.directory / "ca", curve)
    require(
        bench.pavise(
            "sign", bench.model, "--signature", bench.signature,
            "--private-key", certificates["leaf.key"],
            "--signing-certificate", certificates["leaf.pem"],
            "--certificate-chain", certificates["intermediate.pem"],
        )
    )
    check_certificate_signature(bench, certificates)


@cases(curve=CURVES)
def they_sign_with_a_certificate_and_we_verify(bench, curve):
    certificates = make_certificates(bench.directory / "ca", curve)
    require(
        bench.reference_cli(
            "sign", "certificate", bench.model, "--signature", bench.signature,
            "--private_key", certificates["leaf.key"],
            "--signing_certificate", certificates["leaf.pem"],
            "--certificate_chain", certificates["intermediate.pem"],
        )
    )
    check_certificate_signature(bench, certificates)


def check_certificate_signature(bench, certificates):
    def verify(root):
        return bench.pavise(
            "verify", bench.model, "--signature", bench.signature, "--certificate-chain", root
        )

    def reference_verify(root):
        return bench.reference_cli(
            "verify", "certificate", bench.model, "--signature", bench.signature,
            "--certificate_chain", root,
        )

    root = certificates["root.pem"]
    bench.both_refuse_changes(lambda: verify(root), lambda: reference_verify(root))
    other = make_certificates(bench.directory / "other_ca", "p256")["root.pem"]
    refuse(verify(other), "pavise: another root")
    refuse(reference_verify(other), "the reference tool: another root")


@cases(signer=["pavise", "reference"])
def a_certificate_that_may_not_sign(bench, signer):
    certificates = make_certificates(
        bench.directory / "ca", "p256", usage="keyEncipherment", extended_usage="serverAuth"
    )
    arguments = {
        "pavise": (
            bench.pavise, "sign", bench.model, "--private-key", certificates["leaf.key"],
            "--signing-certificate", certificates["leaf.pem"],
            "--certificate-chain", certificates["intermediate.pem"],
        ),
        "reference": (
            bench.reference_cli, "sign", "certificate", bench.model,
            "--private_key", certificates["leaf.key"],
            "--signing_certificate", certificates["leaf.pem"],
            "--certificate_chain", certificates["intermediate.pem"],
        ),
    }[signer]
    run, *words = arguments
    accepted, _ = run(*words, "--signature", bench.signature)
    if signer == "pavise" and not accepted:
        return  # refused before anything was signed: as good
    refuse(
        bench.pavise(
            "verify", bench.model, "--signature", bench.signature,
            "--certificate-chain", certificates["root.pem"],
        ),
        "pavise: a server certificate",
    )
    refuse(
        bench.reference_cli(
            "verify", "certificate", bench.model, "--signature", bench.signature,
            "--certificate_chain", certificates["root.pem"],
        ),
        "the reference tool: a server certificate",
    )


@case
def an_expired_certificate(bench):
    # The reference tool judges it at its first day, the specification today.
    certificates = make_certificates(bench.directory / "ca", "p256", expired=True)
    require(
        bench.reference_cli(
            "sign", "certificate", bench.model, "--signature", bench.signature,
            "--private_key", certificates["leaf.key"],
            "--signing_certificate", certificates["leaf.pem"],
            "--certificate_chain", certificates["intermediate.pem"],
        )
    )
    root = certificates["root.pem"]
    require(
        bench.reference_cli(
            "verify", "certificate", bench.model, "--signature", bench.signature,
            "--certificate_chain", root,
        ),
        "the reference tool",
    )
    verify = [
        "verify", bench.model, "--signature", bench.signature, "--certificate-chain", root,
    ]
    refuse(bench.pavise(*verify), "pavise: an expired certificate")
    require(bench.pavise(*verify, "--accept-expired-certificates"), "pavise, told to accept it")


def make_certificates(
    directory, curve, usage="digitalSignature", extended_usage="codeSigning", expired=False
):
    """Root, intermediate and leaf, made by openssl; name -> path."""
    directory.mkdir()
    path = {name: directory / name for name in (
        "root.key", "root.pem", "intermediate.key", "intermediate.pem", "leaf.key", "leaf.pem")}
    extensions = directory / "extensions.cnf"
    extensions.write_text(
        "[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\n"
        "[leaf]\nbasicConstraints=critical,CA:FALSE\n"
        f"keyUsage=critical,{usage}\nextendedKeyUsage={extended_usage}\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    for name in ("root", "intermediate", "leaf"):
        openssl("ecparam", "-name", CURVES[curve], "-genkey", "-noout", "-out", path[f"{name}.key"])

    def issue(name, issuer, section, days):
        request = directory / f"{name}.csr"
        openssl("req", "-new", "-key", path[f"{name}.key"], "-subj", f"/CN=Pavise test {name}",
                "-out", request)
        signing = (
            ["-signkey", path["root.key"]]
            if issuer is None
            else ["-CA", path[f"{issuer}.pem"], "-CAkey", path[f"{issuer}.key"], "-CAcreateserial"]
        )
        # openssl x509 has no option for a first day; a negative number of days ends before it began,
        # so an expired certificate comes from `openssl ca`.
        openssl("x509", "-req", "-in", request, *signing, "-days", days, "-sha256",
                "-extfile", extensions, "-extensions", section, "-out", path[f"{name}.pem"])

    issue("root", None, "ca", 3650)
    issue("intermediate", "root", "ca", 3650)
    if expired:
        issue_expired(directory, path)
    else:
        issue("leaf", "intermediate", "leaf", 30)
    return path


def issue_expired(directory, path):
    """All three certificates anew, the leaf's validity over and inside that of the others."""
    (directory / "index.txt").write_text("")
    (directory / "serial").write_text("1000\n")
    configuration = directory / "ca.cnf"
    configuration.write_text(
        "[ca]\ndefault_ca=authority\n[authority]\n"
        f"database={directory}/index.txt\nserial={directory}/serial\nnew_certs_dir={directory}\n"
        "default_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n"
    )
    extensions = directory / "extensions.cnf"
    periods = {
        "root": ("ca", "root", "20200101000000Z", "20400101000000Z"),
        "intermediate": ("ca", "root", "20200101000000Z", "20400101000000Z"),
        "leaf": ("leaf", "intermediate", "20210101000000Z", "20210201000000Z"),
    }
    for name, (section, issuer, begin, end) in periods.items():
        request = directory / f"{name}.csr"
        openssl("req", "-new", "-key", path[f"{name}.key"], "-subj", f"/CN=Pavise test {name}",
                "-out", request)
        authority = (
            ["-selfsign"] if name == "root" else ["-cert", path[f"{issuer}.pem"]]
        )
        openssl("ca", "-batch", "-notext", "-config", configuration, "-in", request,
                "-keyfile", path[f"{issuer}.key"], *authority, "-startdate", begin, "-enddate", end,
                "-extfile", extensions, "-extensions", section, "-out", path[f"{name}.pem"])


# ---------------------------------------------------------------------------- release 0.2.0 format


def release_020_bundle(bench, *, predicate_type="https://model_signing/Digests/v0.1"):
    """What release 0.2.0 signed, made from the functions with which the reference still reads it."""
    subjects = [
        {"name": path.relative_to(bench.model).as_posix(),
         "digest": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
        for path in sorted(path for path in bench.model.rglob("*") if path.is_file())
    ]
    payload = json.dumps(
        {"_type": "https://in-toto.io/Statement/v1", "subject": subjects,
         "predicateType": predicate_type, "predicate": {"unused": "Unused"}}
    ).encode()
    private_key = serialization.load_pem_private_key(bench.key().read_bytes(), None)
    signature = private_key.sign(
        sign_sigstore_pb.pae_compat(payload),
        ec.ECDSA(sign_ec_key.get_ec_key_hash(private_key.public_key())),
    )
    bench.signature.write_text(
        json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": {"publicKey": {}, "tlogEntries": []},
                "dsseEnvelope": {
                    "payload": base64.b64encode(payload).decode(),
                    "payloadType": "application/vnd.in-toto+json",
                    "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
                },
            }
        )
    )


@case
def a_bundle_as_release_0_2_0_made_them(bench):
    release_020_bundle(bench)
    bench.both_refuse_changes(bench.pavise_verify, bench.reference_verify)


@case
def the_faulty_encoding_of_release_0_2_0_under_another_predicate(bench):
    # That release knew one predicate; nothing else was ever signed this way.
    release_020_bundle(bench, predicate_type="https://model_signing/signature/v1.0")
    refuse(bench.pavise_verify(), "pavise: the old encoding of a new statement")


# ------------------------------------------------------------------------------------------- frame


def payload_of(signature):
    bundle = json.loads(signature.read_text())
    return json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))


def openssl(*arguments):
    process = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if process.returncode != 0:
        raise Failure(f"openssl {arguments[0]}: {process.stderr.strip()}")


def main(arguments):
    if len(arguments) not in (2, 3):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    pavise = str(pathlib.Path(arguments[1]).resolve())
    if not os.access(pavise, os.X_OK):
        print(f"{pavise} is not built", file=sys.stderr)
        return 2
    wanted = arguments[2] if len(arguments) == 3 else ""

    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="pavise_interop_") as scratch:
        scratch = pathlib.Path(scratch)
        keys = scratch / "keys"
        keys.mkdir()
        for curve in CURVES:
            subprocess.run(
                [pavise, "keygen", "--curve", curve, "-o", str(keys / f"{curve}.pem")],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        for number, (name, run) in enumerate(CASES):
            if wanted not in name:
                continue
            directory = scratch / str(number)
            directory.mkdir()
            try:
                run(Bench(pavise, directory, keys))
            except Failure as failure:
                failed += 1
                print(f"FAIL: {name}: {' '.join(str(failure).split())[:600]}", flush=True)
            except Exception:  # noqa: BLE001
                failed += 1
                print(f"FAIL: {name}: {' '.join(traceback.format_exc().split())}", flush=True)
            else:
                passed += 1
                print(f"PASS: {name}", flush=True)
            shutil.rmtree(directory, ignore_errors=True)
    print(f"interop: {passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
