"""Reads #include lines. Shared by check_layers.py, check_headers.py and tidy.py."""

import dataclasses
import hashlib
import pathlib
import re

CODE_SUFFIXES = (".h", ".cc", ".cu", ".cuh", ".inc")

_DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*include(?:_next)?[ \t]*(?P<target>.*?)[ \t]*$")
_BRACKETED = re.compile(r'^(?:<(?P<angle>[^>]+)>|"(?P<quote>[^"]+)")')
# Comments and string literals, so that neither "//" in a string nor an include in a comment counts.
_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Include:
    line: int
    target: str  # "pavise/base/status.h", "openssl/evp.h"; a macro's name where is_macro
    is_quoted: bool
    is_macro: bool = False


def _blank(match):
    text = match.group(0)
    if text.startswith(('"', "'")):
        return text
    return re.sub(r"[^\n]", " ", text)


def parse_includes(text):
    """The includes of one file's text, in order, commented-out ones left out."""
    # A continued line is one line to the preprocessor.
    text = _TOKEN.sub(_blank, text.replace("\\\n", "  "))
    includes = []
    for number, line in enumerate(text.split("\n"), start=1):
        directive = _DIRECTIVE.match(line)
        if directive is None:
            continue
        target = _BRACKETED.match(directive["target"])
        if target is None:
            includes.append(Include(number, directive["target"], False, is_macro=True))
        else:
            includes.append(
                Include(number, target["angle"] or target["quote"], target["quote"] is not None)
            )
    return includes


def code_files(root, *below):
    """Every source and header under root/below, sorted, as paths relative to root."""
    root = pathlib.Path(root)
    files = []
    for directory in below:
        for path in (root / directory).rglob("*"):
            if path.suffix in CODE_SUFFIXES and path.is_file():
                files.append(path.relative_to(root))
    return sorted(files)


class ContentHashes:
    """Digest of a file and of every project file it includes, directly or not."""

    def __init__(self, root):
        self._root = pathlib.Path(root)
        self._read = {}  # path -> (digest, [included project paths])

    def _load(self, path):
        if path not in self._read:
            content = (self._root / path).read_bytes()
            included = [
                include.target
                for include in parse_includes(content.decode("utf-8", "replace"))
                if include.target.startswith("pavise/") and (self._root / include.target).is_file()
            ]
            self._read[path] = (hashlib.sha256(content).hexdigest(), included)
        return self._read[path]

    def closure_digest(self, path, *extra):
        seen = set()
        waiting = [str(path)]
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                waiting.extend(self._load(current)[1])
        digest = hashlib.sha256()
        for name in sorted(seen):
            digest.update(f"{name} {self._load(name)[0]}\n".encode())
        for text in extra:
            digest.update(f"{text}\n".encode())
        return digest.hexdigest()
