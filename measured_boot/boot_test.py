#!/usr/bin/env python3
"""Measured boots, end to end: build, boot in QEMU, attest, appraise.

Usage: boot_test.py BIN WORK     BIN has pavise, pavise-agent and pavise-init; WORK a kernel/ (run.sh)
Prints PASS, FAIL or SKIP lines, one a test.
"""

import concurrent.futures
import json
import pathlib
import secrets
import shutil
import subprocess
import sys
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOOT = ROOT / "measured_boot/boot.py"
EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
# Loaded by name, so that no list of needed libraries names it.
TCTI = "/usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0"


class Skipped(Exception):
    """With the reason."""


class Kit:
    def __init__(self, programs, work):
        self.programs = programs
        self.work = work

    def pavise(self, *words, expect=0):
        words = list(map(str, words))
        end = words.index("--") if "--" in words else len(words)
        done = subprocess.run(
            [self.programs / "pavise", *words[:end], "--json", *words[end:]],
            capture_output=True, text=True, check=False)  # fmt: skip
        if done.returncode != expect:
            raise AssertionError(f"pavise {words[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def build(self, name, *more, files=None):
        directory = self.work / name
        shutil.rmtree(directory, ignore_errors=True)
        words = ["host-image", "-o", directory, "--kernel", self.work / "kernel", "--library", TCTI, *more]
        if files is not None:
            words += ["--files", files]
        result = self.pavise(*words)
        return directory, result

    def boot(self, name, image, *more):
        """The evidence of one boot, and the challenge that it answers. Each boot is another machine."""
        folder = self.work / f"boot-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        nonce = secrets.token_hex(32)
        (folder / "challenge").write_text(nonce + "\n")
        done = subprocess.run(
            [sys.executable, BOOT, "--image", image, "--state", folder / "machine", "--output", folder / "answer",
             "--input", folder / "challenge", "--console", folder / "console", "--timeout", "400", *map(str, more)],
            capture_output=True, text=True, check=False)  # fmt: skip
        answer = (folder / "answer").read_bytes() if (folder / "answer").exists() else b""
        greeting, _, rest = answer.partition(b"\n")
        line, _, evidence = rest.partition(b"\n")
        if done.returncode != 0 or greeting != b"pavise-evidence 1" or not line.startswith(b"evidence "):
            console = (folder / "console").read_text(errors="replace")[-1500:]
            raise AssertionError(f"no evidence: {done.returncode} {done.stderr}{line!r}\n{console}")
        if len(evidence) != int(line.split()[1]):
            raise AssertionError(f"{line!r}, and {len(evidence)} bytes came")
        (folder / "evidence.cbor").write_bytes(evidence)
        return folder / "evidence.cbor", nonce

    def appraise(self, evidence, nonce, references, expect=0, **tpm):
        policy = evidence.parent / "policy.json"
        policy.write_text(json.dumps({
            "pavise_appraisal_policy": 1,
            "required": ["tpm"],
            "reference_values": [str(path) for path in references],
            "tpm": {"allow_unbound_key": True, **tpm},
        }))  # fmt: skip
        return self.pavise("appraise", "evidence", evidence, "--policy", policy, "--nonce", nonce,
                           "--report", evidence.parent / "report", expect=expect)  # fmt: skip

    def refused(self, evidence, nonce, references, *wanted, **tpm):
        """Refused with findings of at least these (reason, words of the item)."""
        result = self.appraise(evidence, nonce, references, expect=1, **tpm)
        findings = [(finding["reason"], finding["item"]) for finding in result["findings"]]
        for reason, item in wanted:
            if not any(reason == seen and item in of for seen, of in findings):
                raise AssertionError(f"no {reason} of {item} in {findings}")
        return findings


def accepted_as_predicted(kit, state):
    evidence, nonce = kit.boot("plain", state["image"])
    result = kit.appraise(evidence, nonce, [state["references"]])
    tpm = result["result"]["submods"]["tpm"]
    key = tpm["ear_attester_claims"]["attestation_key"]
    # Enrolled by its name, it is bound; another machine's name is not.
    pinned = kit.appraise(evidence, nonce, [state["references"]], allow_unbound_key=False, attestation_keys=[key])
    assert pinned["result"]["ear_status"] == "affirming", pinned
    other = key[:-1] + ("0" if key[-1] != "0" else "1")
    kit.refused(evidence, nonce, [state["references"]], ("binding-mismatch", "AK "),
                allow_unbound_key=False, attestation_keys=[other])  # fmt: skip
    # Another challenge: replayed.
    kit.refused(evidence, secrets.token_hex(32), [state["references"]], ("nonce-mismatch", ""))
    # The golden boot's firmware values, made on the same kind of machine.
    golden = evidence.parent / "golden.json"
    kit.pavise("appraise", "reference", "--from", "log", evidence, "--registers", "0,1,7", "-o", golden)
    kit.appraise(evidence, nonce, [state["references"], golden])
    state["golden"] = golden


def same_bytes_twice(kit, state):
    again, _ = kit.build("image-again", files=state["files"])
    for name in ("host.efi", "esp.img", "root.img"):
        assert (again / name).read_bytes() == (state["image"] / name).read_bytes(), name


def changed_executable(kit, state):
    files = kit.work / "files-changed"
    shutil.rmtree(files, ignore_errors=True)
    shutil.copytree(state["files"], files, symlinks=True)
    shutil.copyfile("/bin/true", files / "usr/bin/tool")
    image, _ = kit.build(
        "image-executable", "--start", f"/usr/bin/starter /usr/bin/pavise-agent attest --serial /dev/ttyS1",
        "--program", f"{kit.programs / 'pavise-agent'}=/usr/bin/pavise-agent",
        "--program", f"{state['starter']}=/usr/bin/starter", files=files)  # fmt: skip
    evidence, nonce = kit.boot("executable", image)
    kit.refused(evidence, nonce, [state["references"]],
                ("measurement-mismatch", "PCR 9"), ("measurement-mismatch", "PCR 11"),
                ("measurement-mismatch", "PCR 4"), ("measurement-unknown", "/usr/bin/starter"),
                ("measurement-mismatch", "/usr/bin/tool"))  # fmt: skip


def other_command_line(kit, state):
    image, _ = kit.build("image-cmdline", "--command-line", "console=ttyS0 quiet loglevel=1", files=state["files"])
    evidence, nonce = kit.boot("cmdline", image)
    kit.refused(evidence, nonce, [state["references"]], ("measurement-mismatch", "PCR 9"),
                ("measurement-mismatch", "PCR 11"), ("measurement-unknown", "command line"))  # fmt: skip


def other_initramfs(kit, state):
    image, _ = kit.build("image-initramfs", *[word for name in
                         ("virtio_pci", "virtio_blk", "dm-verity", "squashfs", "loop") for word in ("--module", name)],
                         files=state["files"])  # fmt: skip
    evidence, nonce = kit.boot("initramfs", image)
    kit.refused(evidence, nonce, [state["references"]], ("measurement-mismatch", "PCR 9"),
                ("measurement-unknown", "/usr/lib/modules/loop.ko"),
                ("measurement-mismatch", "/etc/pavise/init.conf"))  # fmt: skip


def without_lockdown(kit, state):
    """An image whose owner listed its values himself, but whose kernel protects less."""
    image = kit.work / "image-unlocked"
    shutil.rmtree(image, ignore_errors=True)
    shutil.copytree(state["image"], image)
    kernel_image = (image / "host.efi").read_bytes()
    strong, weak = b"lockdown=confidentiality", b"lockdown=integrity"
    assert kernel_image.count(strong) == 1
    (image / "host.efi").write_bytes(kernel_image.replace(strong, weak.ljust(len(strong))))
    subprocess.run(["mcopy", "-o", "-i", image / "esp.img", image / "host.efi", "::/EFI/BOOT/BOOTX64.EFI"], check=True)
    evidence, nonce = kit.boot("unlocked", image)
    kit.refused(evidence, nonce, [state["references"]], ("measurement-mismatch", "PCR 9"))
    # With its own values listed, only the missing protection is left.
    golden = evidence.parent / "golden.json"
    kit.pavise("appraise", "reference", "--from", "log", evidence, "--registers", "2,3,4,5,6,9,11,12,13", "-o", golden)
    values = json.loads(golden.read_text())
    line = state["command_line"].replace(strong.decode(), weak.decode().ljust(len(strong)))
    values["command_lines"] = [{"text": line, "source": "test"}]
    golden.write_text(json.dumps(values))
    findings = kit.refused(evidence, nonce, [golden], ("platform-insecure", "kernel command line"))
    assert len(findings) == 1, findings
    kit.appraise(evidence, nonce, [golden], protection_exceptions=["lockdown"])


def overridden_by_boot_variable(kit, state):
    program = pathlib.Path(sys.executable).parent / "virt-fw-vars"
    if not program.exists():
        raise Skipped("virt-firmware (PyPI) is not installed, which writes firmware variables")
    folder = kit.work / "variables"
    folder.mkdir(exist_ok=True)
    store = "/usr/share/OVMF/OVMF_VARS_4M.fd"
    subprocess.run([program, "--input", store, "--append-boot-filepath", "EFI/BOOT/BOOTX64.EFI",
                    "--output-json", folder / "variables.json", "--output", folder / "first.fd"],
                   check=True, capture_output=True)  # fmt: skip
    variables = json.loads((folder / "variables.json").read_text())
    line = state["command_line"].replace("lockdown=confidentiality", "lockdown=none")
    for variable in variables["variables"]:
        if variable["name"] == "Boot0000" and variable["guid"] == EFI_GLOBAL:
            variable["data"] += (line + "\0").encode("utf-16-le").hex()
    (folder / "changed.json").write_text(json.dumps(variables))
    subprocess.run([program, "--input", store, "--set-json", folder / "changed.json",
                    "--output", folder / "changed.fd"], check=True, capture_output=True)  # fmt: skip
    evidence, nonce = kit.boot("variable", state["image"], "--variables", folder / "changed.fd")
    findings = kit.refused(evidence, nonce, [state["references"]], ("measurement-mismatch", "PCR 9"),
                           ("measurement-mismatch", "PCR 12"), ("measurement-unknown", "command line"))  # fmt: skip
    # The image itself is the right one: 4 and 11 alone would have let it pass.
    assert not any("PCR 4 " in item or "PCR 11" in item for _, item in findings), findings


def credential_file(kit, state):
    credential = kit.work / "secret.cred"
    credential.write_text("let me in")
    evidence, nonce = kit.boot("credential", state["image"], "--esp-directory", "EFI/BOOT/BOOTX64.EFI.extra.d",
                               "--append-esp", f"{credential}=/EFI/BOOT/BOOTX64.EFI.extra.d/secret.cred")  # fmt: skip
    findings = kit.refused(evidence, nonce, [state["references"]], ("measurement-mismatch", "PCR 12"))
    assert not any("PCR 4 " in item or "PCR 11" in item for _, item in findings), findings


def other_root_disk(kit, state):
    """The root that the image names, with one block changed: the kernel stops before anything runs."""
    image = kit.work / "image-root"
    shutil.rmtree(image, ignore_errors=True)
    shutil.copytree(state["image"], image)
    with open(image / "root.img", "r+b") as root:
        root.seek(4096)
        block = root.read(4096)
        root.seek(4096)
        root.write(bytes(byte ^ 0xFF for byte in block))
    try:
        kit.boot("root", image)
    except AssertionError:
        return
    raise AssertionError("a changed root was booted")


def refused_programs(kit, state):
    result = kit.pavise("host-image", "-o", kit.work / "image-shell", "--kernel", kit.work / "kernel",
                        "--program", "/bin/sh=/usr/bin/sh", "--start", "/usr/bin/sh", expect=1)  # fmt: skip
    assert [finding["reason"] for finding in result["findings"]] == ["policy-denied"], result


TESTS = [same_bytes_twice, refused_programs, changed_executable, other_command_line, other_initramfs,
         without_lockdown, overridden_by_boot_variable, credential_file, other_root_disk]  # fmt: skip


def main():
    kit = Kit(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
    failed = False

    def run(test):
        nonlocal failed
        name = test.__name__.replace("_", " ")
        try:
            test(kit, state)
            print(f"PASS: {name}", flush=True)
        except Skipped as skipped:
            print(f"SKIP: {name}: {skipped}", flush=True)
        except Exception:  # noqa: BLE001 - a test's failure, whatever it is
            failed = True
            print(f"FAIL: {name}", flush=True)
            traceback.print_exc(file=sys.stdout)

    # A program that the image starts, which runs another file of the owner's and then its arguments.
    starter = kit.work / "starter"
    source = kit.work / "starter.c"
    source.write_text(
        "#include <sys/wait.h>\n#include <unistd.h>\n"
        "int main(int c, char** v) { if (fork() == 0) { execl(\"/usr/bin/tool\", \"tool\", (char*)0); _exit(1); }\n"
        "wait(0); if (c > 1) execv(v[1], v + 1); return 1; }\n")  # fmt: skip
    subprocess.run(["cc", "-static", "-o", starter, source], check=True)
    files = kit.work / "files"
    shutil.rmtree(files, ignore_errors=True)
    (files / "usr/bin").mkdir(parents=True)
    shutil.copyfile("/bin/false", files / "usr/bin/tool")
    (files / "usr/bin/tool").chmod(0o755)
    image, result = kit.build("image", files=files)
    state = {"image": image, "files": files, "starter": starter, "references": image / "reference.json",
             "command_line": result["command_line"]}  # fmt: skip
    run(accepted_as_predicted)
    if not failed:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(run, TESTS))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
