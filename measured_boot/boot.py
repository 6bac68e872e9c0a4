#!/usr/bin/env python3
"""Boots a host image in QEMU, with UEFI firmware and a TPM, both in software, and brings its evidence back.

The TPM is swtpm with EK certificates by a certificate authority made on the spot; the processor is
emulated (TCG), so that no other virtualisation is needed. A boot takes about 15 s.

Usage: boot.py --image DIR --state DIR --output FILE [--input FILE] [options]
  --image DIR     host.efi's directory: esp.img and root.img, as pavise host-image writes them
  --state DIR     the machine's own: TPM state, CA and firmware variables; made where it is absent, and
                  kept, so that the next boot is the same machine's
  --output FILE   what the guest writes to its second serial port, /dev/ttyS1, after the firmware is done
                  with it: from the line "pavise-evidence 1" on
  --input FILE    what it is sent there once it has written that line (a challenge)
  --console FILE  the console's text
  --timeout S     seconds until the machine is switched off [180]
  --memory MIB    [1024]
  --network       a network device; the guest reaches this machine's loopback servers as 10.0.2.2, and
                  takes 10.0.2.15/24
  --esp-directory D  a directory more on the boot partition, for tests (repeatable)
  --append-esp F=T  a file more on the boot partition, for tests (repeatable)
  --variables F   firmware variables to start with, for tests

Exit status: 0 the guest switched itself off, 1 it did not in time, 3 something is missing here.
"""

import argparse
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

FIRMWARE = pathlib.Path("/usr/share/OVMF")


# The guest's first line. What stands before it is the firmware's, which also reads the port: nothing
# is sent until the guest has spoken.
GREETING = b"pavise-evidence 1\n"


class Missing(Exception):
    """A program or file that Debian packages bring."""


def need(program, package):
    found = shutil.which(program)
    if found is None:
        raise Missing(f"{program} is missing: apt-get install {package}")
    return found


def make_tpm(state):
    """TPM state with EK and platform certificates from a local CA (swtpm_setup(8))."""
    tpm = state / "tpm"
    tpm.mkdir(parents=True)
    ca = state / "ca"
    ca.mkdir()
    (state / "localca.conf").write_text(
        f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\n"
        f"certserial = {ca}/certserial\n"
    )
    (state / "localca.options").write_text(
        "--platform-manufacturer Pavise\n--platform-version 1\n--platform-model kit\n"
    )
    (state / "setup.conf").write_text(
        f"create_certs_tool = {need('swtpm_localca', 'swtpm-tools')}\n"
        f"create_certs_tool_config = {state}/localca.conf\n"
        f"create_certs_tool_options = {state}/localca.options\n"
    )
    subprocess.run(
        [need("swtpm_setup", "swtpm-tools"), "--tpm2", "--tpm-state", tpm, "--config", state / "setup.conf",
         "--create-ek-cert", "--create-platform-cert", "--pcr-banks", "sha1,sha256",
         "--write-ek-cert-files", state],
        check=True, stdout=subprocess.DEVNULL)  # fmt: skip


def stop(process):
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class SerialPort(threading.Thread):
    """The other end of the guest's second serial port."""

    def __init__(self, path, challenge, output):
        super().__init__(daemon=True)
        self._challenge = challenge
        self._output = output
        self._server = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self._server.bind(str(path))
        self._server.listen(1)

    def run(self):
        connection, _ = self._server.accept()
        received = b""
        greeted = False
        while part := connection.recv(1 << 16):
            received += part
            if not greeted and GREETING in received:
                greeted = True
                received = received[received.index(GREETING) :]
                connection.sendall(self._challenge)
        self._output.write_bytes(received if greeted else b"")


def boot(arguments):
    state = arguments.state.resolve()  # swtpm fails with a relative path
    if not (state / "tpm").is_dir():
        make_tpm(state)
    variables = state / "variables.fd"
    if arguments.variables is not None:
        shutil.copyfile(arguments.variables, variables)
    elif not variables.exists():
        shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", variables)
    esp = arguments.image / "esp.img"
    if arguments.append_esp:
        shutil.copyfile(esp, state / "esp.img")
        esp = state / "esp.img"
        for directory in arguments.esp_directory:
            subprocess.run([need("mmd", "mtools"), "-i", esp, "::/" + directory], check=True)
        for pair in arguments.append_esp:
            source, _, target = pair.partition("=")
            subprocess.run([need("mcopy", "mtools"), "-i", esp, source, "::" + target], check=True)
    tpm_socket = state / "tpm.sock"
    tpm_socket.unlink(missing_ok=True)
    challenge = arguments.input.read_bytes() if arguments.input is not None else b""
    port = SerialPort(state / "serial.sock", challenge, arguments.output)
    port.start()
    swtpm = machine = None
    try:
        swtpm = subprocess.Popen(
            [need("swtpm", "swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={state / 'tpm'}",
             "--ctrl", f"type=unixio,path={tpm_socket}", "--terminate"])  # fmt: skip
        for _ in range(100):
            if tpm_socket.exists() or swtpm.poll() is not None:
                break
            time.sleep(0.05)
        machine = subprocess.Popen(
            [need("qemu-system-x86_64", "qemu-system-x86"), "-machine", "q35,accel=tcg", "-cpu", "max",
             "-smp", "1", "-m", str(arguments.memory), "-nodefaults", "-no-user-config", "-display", "none",
             "-no-reboot",
             "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.fd'}",
             "-drive", f"if=pflash,format=raw,unit=1,file={variables}",
             "-drive", f"if=virtio,format=raw,readonly=on,file={esp}",
             "-drive", f"if=virtio,format=raw,readonly=on,file={arguments.image / 'root.img'}",
             "-chardev", f"socket,id=tpmsocket,path={tpm_socket}",
             "-tpmdev", "emulator,id=tpm0,chardev=tpmsocket", "-device", "tpm-crb,tpmdev=tpm0",
             "-serial", f"file:{arguments.console}",
             "-chardev", f"socket,id=evidence,path={state / 'serial.sock'}",
             "-serial", "chardev:evidence",
             # Without an option ROM, which would run before the image and show in PCR 2.
             *(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
               if arguments.network else [])],
            stdin=subprocess.DEVNULL)  # fmt: skip
        try:
            code = machine.wait(arguments.timeout)
            port.join(10)
            return 0 if code == 0 else 1
        except subprocess.TimeoutExpired:
            print("boot: the guest did not switch itself off; its console:", file=sys.stderr)
            sys.stderr.write(pathlib.Path(arguments.console).read_text(errors="replace")[-2000:])
            return 1
    finally:
        stop(machine)
        stop(swtpm)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--image", type=pathlib.Path, required=True)
    parser.add_argument("--state", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--input", type=pathlib.Path)
    parser.add_argument("--console", type=pathlib.Path, default=os.devnull)
    parser.add_argument("--timeout", type=float, default=180)
    parser.add_argument("--memory", type=int, default=1024)
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--esp-directory", action="append", default=[])
    parser.add_argument("--append-esp", action="append", default=[])
    parser.add_argument("--variables", type=pathlib.Path)
    try:
        return boot(parser.parse_args())
    except Missing as missing:
        print(f"boot: {missing}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
