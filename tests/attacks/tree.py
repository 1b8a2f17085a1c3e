"""A small root file system with a Python in it: for images, for chroot, for runc."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

PYTHON = "/usr/bin/python3"
_INSIDE = Path(__file__).parent / "inside"
_LOOK = (
    "import sys, importlib, pathlib, encodings.idna, encodings.ascii, encodings.latin_1, encodings.utf_8\n"
    "sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1])\n"
    "for path in pathlib.Path(sys.argv[1]).glob('*.py'): importlib.import_module(path.stem)\n"
    "print(*{m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)}, sep='\\n')\n"
)
_COMMANDS = ("sh", "cat", "sleep", "ls", "true", "id")


def make(root: Path) -> Path:
    """Fill `root`: the machine's own interpreter, the modules that attacks import, and busybox."""
    interpreter = Path(PYTHON).resolve()
    look = [PYTHON, "-c", _LOOK, str(_INSIDE)]
    listed = subprocess.run(look, capture_output=True, text=True, check=True, cwd="/").stdout
    files = {interpreter, Path("/usr/bin/cat").resolve(), *map(Path, listed.split())}
    found = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    for path in {*map(str, files), *re.findall(r"(/\S+)(?= \(0x)", found)}:
        if Path(path).is_file() and path.startswith(("/usr", "/lib")):
            _copy(Path(path), root)
    for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "run", "var/tmp", "mnt", "sbin", "root"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/python3").symlink_to(interpreter.name)
    busybox = shutil.which("busybox")
    assert busybox, "install busybox-static"
    shutil.copy(busybox, root / "bin/busybox")
    for name in _COMMANDS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    shutil.copytree(_INSIDE, root / "attacks", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def _copy(source: Path, root: Path) -> None:
    target = root / source.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def image(root: Path, made: Path) -> Path:
    """`root` as a squashfs."""
    made.parent.mkdir(exist_ok=True)
    command = ["mksquashfs", root, made, "-comp", "zstd", "-Xcompression-level", "1", "-quiet", "-no-progress"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    made.chmod(0o644)
    return made
