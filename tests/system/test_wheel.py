"""What `make wheel` builds is the whole package, and the command works where only the wheel was installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def done(*command: str | Path, cwd: Path) -> str:
    """What the command printed; fails when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the build leaves nothing in the repository."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "batchns", copy / "batchns", ignore=shutil.ignore_patterns("__pycache__"))
    done(sys.executable, "-m", "build", "--wheel", "--outdir", "dist", ".", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel):
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "batchns").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("batchns/")}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert "# batchns" in archive.read(metadata).decode()
    assert {"batchns/py.typed", "batchns/schema/job.schema.json", "batchns/schema/config.schema.json"} <= held
    assert held == there


@pytest.mark.skipif(os.geteuid() != 0, reason="runs a job, which needs root")
def test_an_installed_wheel_checks_and_runs_jobs(wheel, tmp_path):
    """In a fresh environment that has the dependencies of this one, but not the repository."""
    place = tmp_path / "venv"
    done(sys.executable, "-m", "venv", place, cwd=tmp_path)
    python = place / "bin/python"
    done(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert str(ROOT) not in done(python, "-c", "import batchns; print(batchns.__file__)", cwd=tmp_path)
    (tmp_path / "hello.toml").write_text('name = "hello"\ncommand = ["echo", "hello"]\n')
    command = place / "bin/batchns"
    assert done(command, "check", "hello.toml", cwd=tmp_path) == "hello.toml: 1 job ok\n"
    assert '"command"' in done(command, "check", "--schema", "job", cwd=tmp_path)
    assert done(command, "run", "--", "echo", "works", cwd=tmp_path) == "works\n"
