#!/usr/bin/env python3
"""Holds what deploy/ ships against the program that it starts: options, paths, names and the configuration."""

import copy
import json
import pathlib
import re
import shutil
import stat
import subprocess
import tempfile
import unittest

try:
    import yaml
except ImportError:
    yaml = None

ROOT = pathlib.Path(__file__).resolve().parent.parent
UNIT = ROOT / "deploy/systemd/pavise-broker.service"
MANIFEST = ROOT / "deploy/kubernetes/pavise-broker.yaml"


def built_program():
    programs = [path for path in ROOT.glob("build/*/bin/pavise") if path.with_name("pavise-all").exists()]
    return max(programs, key=lambda path: path.stat().st_mtime, default=None)


def run(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def unknown_words(program, words):
    """Of a command line below pavise: verbs and options that the program's help does not have."""
    verbs = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
    code, text = run(program, *verbs, "--help")
    if code != 0:
        return verbs
    return [word for word in words if word.startswith("--") and not re.search(rf"{re.escape(word)}\b", text)]


def unit_settings():
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    settings = {}
    for line in lines:
        name, _, value = line.partition("=")
        settings.setdefault(name, []).append(value)
    return settings


def manifest():
    return {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}


def below(path, mounts):
    return any(path == mount or path.startswith(mount + "/") for mount in mounts)


def check_manifest(documents):
    """What Kubernetes' schema does not see: names that refer to nothing, and paths that no volume brings."""
    findings = []
    deployment = documents["Deployment"]["spec"]
    template = deployment["template"]
    labels = template["metadata"]["labels"].items()
    for kind, selector in (
        ("Deployment", deployment["selector"]["matchLabels"]),
        ("Service", documents["Service"]["spec"]["selector"]),
        ("PodDisruptionBudget", documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
    ):
        if not selector.items() <= labels:
            findings.append(f"{kind} selects other pods")
    pod = template["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    used = set()
    containers = pod["initContainers"] + pod["containers"]
    for container in containers:
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        used |= mounts.keys()
        findings += [f"{container['name']}: no volume {name}" for name in mounts.keys() - volumes.keys()]
        paths = [word for word in container["command"][1:] if word.startswith("/")]
        paths += [each["value"] for each in container.get("env", [])]
        findings += [f"{container['name']}: {path} is in no volume" for path in paths if not below(path, mounts.values())]
        context = container["securityContext"]
        if context["allowPrivilegeEscalation"] or not context["readOnlyRootFilesystem"]:
            findings.append(f"{container['name']} may change its image or privileges")
        if context["capabilities"] != {"drop": ["ALL"]}:
            findings.append(f"{container['name']} has capabilities")
    findings += [f"volume {name} is not mounted" for name in volumes.keys() - used]
    for volume in volumes.values():
        if "configMap" in volume and volume["configMap"]["name"] != documents["ConfigMap"]["metadata"]["name"]:
            findings.append(f"volume {volume['name']} is of another ConfigMap")
        if "secret" in volume and volume["secret"]["defaultMode"] & 0o007:
            findings.append(f"volume {volume['name']} can be read by everybody")
    broker = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in broker["ports"]}
    wanted = [port["targetPort"] for port in documents["Service"]["spec"]["ports"]]
    wanted += [broker[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")]
    findings += [f"no port {port}" for port in wanted if port not in ports]
    configuration = json.loads(documents["ConfigMap"]["data"]["broker.json"])
    if int(configuration["listen"].rpartition(":")[2]) not in ports.values():
        findings.append("the broker listens on another port")
    mounts = [mount["mountPath"] for mount in broker["volumeMounts"]]
    for member in ("certificate", "private_key", "root_key"):
        if not below(configuration[member], mounts):
            findings.append(f"{member} is in no volume")
    # What must be its owner's alone is what the init container copied, under the names that are read.
    private = [f"/private/{pathlib.PurePosixPath(path).name}" for path in containers[0]["command"][5:]]
    secrets = [configuration["root_key"], *(each["value"] for each in broker["env"] if each["name"] == "PGPASSFILE")]
    findings += [f"{path} is not copied for the broker alone" for path in secrets if path not in private]
    return findings


class SystemdTest(unittest.TestCase):
    def setUp(self):
        self.program = built_program()
        if self.program is None:
            self.skipTest("no built pavise: no options to hold the unit against")

    def test_the_command_is_one_that_the_program_has(self):
        (command,) = unit_settings()["ExecStart"]
        words = command.split()
        self.assertEqual(words[0], "/usr/bin/pavise")
        self.assertEqual(unknown_words(self.program, words), [])
        self.assertEqual(unknown_words(self.program, [*words, "--no-such-option"]), ["--no-such-option"])
        self.assertEqual(unknown_words(self.program, [words[0], "brokr"]), ["brokr"])
        (configured,) = unit_settings()["ConfigurationDirectory"]
        self.assertEqual(words[words.index("--config") + 1], f"/etc/{configured}/broker.json")

    def analyze(self, *words):
        analyzer = shutil.which("systemd-analyze")
        if analyzer is None:
            self.skipTest("systemd-analyze is not installed")
        return run(analyzer, *words)

    def test_systemd_takes_it(self):
        with tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder) / UNIT.name
            text = UNIT.read_text()
            unit.write_text(text.replace("/usr/bin/pavise", str(self.program)))
            self.assertEqual(self.analyze("verify", "--man=no", unit), (0, ""))
            unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=very"))
            self.assertIn("protect system", self.analyze("verify", "--man=no", unit)[1])

    def test_its_exposure_stays_low(self):
        code, text = self.analyze("security", "--offline=true", "--threshold=20", UNIT)
        self.assertEqual(code, 0, text)


@unittest.skipIf(yaml is None, "python3-yaml is not installed")
class KubernetesTest(unittest.TestCase):
    def test_everything_refers_to_something(self):
        self.assertEqual(check_manifest(manifest()), [])

    def test_what_does_not_is_found(self):
        pod = ("Deployment", "spec", "template", "spec")
        changes = [
            (("Service", "spec", "selector", "app"), "another", "selects"),
            ((*pod, "volumes", 0, "name"), "another", "no volume config"),
            ((*pod, "containers", 0, "command", 4), "/etc/broker.json", "is in no volume"),
            ((*pod, "containers", 0, "ports", 0, "name"), "http", "no port https"),
            ((*pod, "containers", 0, "ports", 0, "containerPort"), 8080, "another port"),
            ((*pod, "containers", 0, "env", 0, "value"), "/postgresql/pgpass", "is not copied"),
            ((*pod, "volumes", 2, "secret", "defaultMode"), 0o444, "everybody"),
            ((*pod, "containers", 0, "securityContext", "readOnlyRootFilesystem"), False, "may change"),
        ]
        for path, value, finding in changes:
            documents = copy.deepcopy(manifest())
            place = documents
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = value
            self.assertTrue(any(finding in found for found in check_manifest(documents)), (path, check_manifest(documents)))

    def test_the_stop_is_as_long_as_systemds(self):
        pod = manifest()["Deployment"]["spec"]["template"]["spec"]
        self.assertEqual([str(pod["terminationGracePeriodSeconds"])], unit_settings()["TimeoutStopSec"])

    def test_the_program_takes_command_and_configuration(self):
        program = built_program()
        if program is None:
            self.skipTest("no built pavise: nothing reads the configuration")
        documents = manifest()
        pod = documents["Deployment"]["spec"]["template"]["spec"]
        command = pod["containers"][0]["command"]
        self.assertEqual(command[0], unit_settings()["ExecStart"][0].split()[0])
        self.assertEqual(unknown_words(program, command), [])
        configuration = json.loads(documents["ConfigMap"]["data"]["broker.json"])
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "broker.json"
            root_key = pathlib.Path(folder) / "root_key.json"
            configuration["root_key"] = str(root_key)

            def reasons():
                file.write_text(json.dumps(configuration))
                code, text = run(program, "broker", "serve", "--json", "--config", file)
                self.assertIn(code, (1, 3), text)
                return text

            # It is read as far as the root key, which is not there.
            self.assertIn("root_key.json", reasons())
            # As a Secret's volume would have it: readable by the pod's group.
            root_key.write_text("{}")
            root_key.chmod(stat.S_IRUSR | stat.S_IRGRP)
            self.assertIn("platform-insecure", reasons())
            configuration["listens"] = configuration.pop("listen")
            self.assertIn("malformed", reasons())


if __name__ == "__main__":
    unittest.main()
