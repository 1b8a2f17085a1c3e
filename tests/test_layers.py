"""Imports point down the list of layers, and the launcher's side stays light: read from every module's source.

The rules are tables; `violations` compares a tree of modules with them. A small fake tree shows that it would notice.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom to the top. Modules of one entry may import each other, and everything below, except that core and
# kernel never meet (`APART`).
LAYERS = (
    {"errors", "units"},
    {"model"},
    {"core", "kernel"},
    {"launch"},
    {"store"},
    {"wire"},
    {"supervise"},
    {"metrics"},
    {"daemon"},
    {"client"},
    {"slurm"},
    {"simulate"},
    {"cli"},
    {"__main__"},
)
APART = {frozenset({"core", "kernel"})}

# Of what lies below it, a simulation needs the policy and what that is about: no kernel, no processes. A client of the
# daemon needs what goes over the wire; that of a cluster what jobs are, too, and neither kernel nor daemon.
ONLY = {
    "simulate": {"errors", "units", "model", "core", "simulate"},
    "wire": {"errors", "units", "model", "wire"},
    "client": {"errors", "units", "wire", "client"},
    "slurm": {"errors", "units", "model", "wire", "slurm"},
}

# Policy gets time, randomness and the machine as arguments.
PURE = {
    "core": {"trio", "os", "time", "logging", "pathlib", "random", "datetime"},
    "simulate": {"trio", "os", "time", "logging", "pathlib", "random", "datetime"},
}

# What the single-threaded forker loads stays small: a fork of it costs what it has loaded. So does what a node of a
# cluster starts for each job.
HEAVY = {"attrs", "attr", "cattrs", "trio", "pyroute2", "click", "rich", "asyncio", "threading"}
LIGHT = {
    "batchns.launch.launcher",
    "batchns.launch.sandbox",
    "batchns.launch.init",
    "batchns.launch.identity",
    "batchns.launch.plan",
    "batchns.launch.covers",
    "batchns.launch.pasta",
    "batchns.launch.job",
    "batchns.launch.kept",
    "batchns.launch.notes",
    "batchns.launch.ahead",
    "batchns.launch.births",
    "batchns.launch.outbox",
    "batchns.kernel.syscalls",
    "batchns.kernel.cgroups.interface",
    "batchns.kernel.cgroups.actions",
    "batchns.kernel.cgroups.device_program",
    "batchns.kernel.cgroups.devices",
    "batchns.kernel.network.link",
    "batchns.kernel.network.netlink",
    "batchns.kernel.network.police",
    "batchns.kernel.bpf",
    "batchns.kernel.network.types",
    "batchns.kernel.seccomp.load",
    "batchns.kernel.userns",
    "batchns.model.parcel",
    "batchns.supervise.batch.main",
    "batchns.supervise.batch.single",
    "batchns.supervise.batch.attempt",
    "batchns.supervise.batch.place",
    "batchns.supervise.batch.readings",
}


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> str:
    """`core` of `batchns.core.order`; "" of the package itself and of what is not ours."""
    parts = module.split(".")
    return parts[1] if parts[0] == "batchns" and len(parts) > 1 else ""


def height(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`, which no interpreter executes."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for branch in child.orelse:
                yield branch
                yield from _runtime_nodes(branch)
            continue
        yield child
        yield from _runtime_nodes(child)


def imports(source: str, module: str, *, package: bool, runtime: bool) -> set[str]:
    """The full names of all modules (or names in them) that `source` imports anywhere, functions included."""
    tree = ast.parse(source)
    found: set[str] = set()
    for node in _runtime_nodes(tree) if runtime else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + package]
                home = ".".join([*above, *([home] if home else [])])
            # "from batchns import core" imports batchns.core; of "from batchns.core.order import x" the module counts.
            found.update(f"{home}.{alias.name}" if home == "batchns" else home for alias in node.names)
    return found


def violations(root: Path) -> list[str]:
    """Every import below `root`/batchns that the tables forbid, as `module imports name: why`."""
    found = []
    for path in sorted((root / "batchns").rglob("*.py")):
        module = module_name(path, root)
        package = path.name == "__init__.py"
        source = path.read_text()
        own = layer(module)
        if own and not any(own in names for names in LAYERS):
            found.append(f"{module}: the layer {own!r} is not in the table")
            continue
        for name in sorted(imports(source, module, package=package, runtime=False)):
            if why := _why_not(own, name):
                found.append(f"{module} imports {name}: {why}")
        if module in LIGHT:
            for name in sorted(imports(source, module, package=package, runtime=True)):
                if name.split(".")[0] in HEAVY:
                    found.append(f"{module} imports {name}: too heavy for the launcher's side")
    return found


def _why_not(own: str, name: str) -> str:
    other = layer(name)
    if other and own and any(other in names for names in LAYERS):
        if frozenset({own, other}) in APART:
            return f"{' and '.join(sorted((own, other)))} never meet"
        if height(other) > height(own):
            return f"{own} is below {other}"
        if other not in ONLY.get(own, {other}):
            return f"{own} does without {other}"
    if name.split(".")[0] in PURE.get(own, ()):
        return f"{own} is pure"
    return ""


def test_no_layer_looks_up() -> None:
    """Nor does policy read a clock, nor the launcher's side load a library."""
    assert violations(ROOT) == []


def test_every_light_module_is_there() -> None:
    """The table of light modules names modules that exist: a renamed one cannot slip out of it."""
    names = {module_name(path, ROOT) for path in (ROOT / "batchns").rglob("*.py")}
    assert LIGHT - names == set()


@pytest.mark.parametrize("module", sorted(LIGHT))
def test_what_the_launcher_loads_brings_nothing_heavy(module: str) -> None:
    """A fresh interpreter imports it: what it imports in turn counts too."""
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    # Without site-packages (-S) a heavy import is an error here, whatever the interpreter loads by itself.
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())


class TestTheCheckerItself:
    """On a small tree with one fault each, it finds exactly that fault."""

    @pytest.mark.parametrize(
        ("file", "source", "expected"),
        [
            ("core/order.py", "from batchns.kernel import mounts", "core and kernel never meet"),
            ("kernel/mounts.py", "import batchns.core.order", "core and kernel never meet"),
            ("model/job.py", "from batchns.launch.plan import Plan", "model is below launch"),
            ("model/job.py", "def f():\n    from batchns.cli import main", "model is below cli"),
            ("model/job.py", "from ..supervise import view", "model is below supervise"),
            ("model/__init__.py", "from ..launch import plan", "model is below launch"),
            ("model/job.py", "from batchns import cli", "model is below cli"),
            ("model/job.py", "if TYPE_CHECKING:\n    from batchns.cli import main", "model is below cli"),
            ("core/order.py", "import time", "core is pure"),
            ("core/order.py", "from datetime import datetime", "core is pure"),
            ("core/order.py", "import os.path", "core is pure"),
            ("launch/plan.py", "from attrs import frozen", "too heavy"),
            ("launch/plan.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import trio", "too heavy"),
            ("kernel/network/link.py", "def f():\n    import pyroute2", "too heavy"),
            ("simulate/engine.py", "from batchns.supervise.view import JobView", "simulate does without supervise"),
            ("simulate/engine.py", "import batchns.kernel.facts", "simulate does without kernel"),
            ("simulate/engine.py", "import time", "simulate is pure"),
            ("surprise/x.py", "", "is not in the table"),
        ],
    )
    def test_finds_the_fault(self, tmp_path: Path, file: str, source: str, expected: str) -> None:
        path = tmp_path / "batchns" / file
        path.parent.mkdir(parents=True)
        path.write_text(source)
        found = violations(tmp_path)
        assert len(found) == 1
        assert expected in found[0]

    @pytest.mark.parametrize(
        ("file", "source"),
        [
            ("cli/main.py", "import os, time, rich\nfrom batchns.core import order\nfrom batchns.kernel import mounts"),
            ("core/order.py", "from collections.abc import Sequence\nfrom batchns.model.job import JobSpec"),
            ("core/order.py", "from . import placement"),
            ("launch/plan.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from attrs import frozen"),
            ("kernel/mounts.py", "import os\nfrom attrs import frozen"),
            ("launch/client.py", "import trio\nfrom batchns.kernel import mounts"),
        ],
    )
    def test_leaves_what_is_allowed(self, tmp_path: Path, file: str, source: str) -> None:
        path = tmp_path / "batchns" / file
        path.parent.mkdir(parents=True)
        path.write_text(source)
        assert violations(tmp_path) == []
