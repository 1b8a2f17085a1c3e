"""What `make install` puts where, and that systemd understands the unit."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from batchns.model.config import Config
from batchns.model.config_table import parse_config

ROOT = Path(__file__).parents[2]
PROGRAM = str(Path(sys.executable).parent / "batchns")


def install(destination: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "packaging/install")],
        env={"PATH": os.environ["PATH"], "DESTDIR": str(destination), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def installed(folder: Path) -> dict[str, int]:
    return {
        f"/{path.relative_to(folder)}": stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_everything_is_below_destdir_and_where_it_belongs(tmp_path: Path) -> None:
    done = install(tmp_path, PREFIX="/usr", BATCHNS="/opt/batchns/bin/batchns")
    assert done.returncode == 0, done.stderr
    found = installed(tmp_path)
    assert set(found) >= {
        "/usr/lib/systemd/system/batchns.service",
        "/usr/lib/sysusers.d/batchns.conf",
        "/usr/lib/tmpfiles.d/batchns.conf",
        "/usr/share/doc/batchns/batchns.toml",
        "/etc/batchns/batchns.toml",
    }
    assert set(found.values()) == {0o644}
    assert sorted(done.stdout.split()) == sorted(found)
    unit = (tmp_path / "usr/lib/systemd/system/batchns.service").read_text()
    assert "ExecStart=/opt/batchns/bin/batchns daemon\n" in unit
    for path in found:
        assert not re.search("@[A-Z]+@", (tmp_path / path[1:]).read_text()), path


def test_manuals_and_completions_go_along(tmp_path: Path) -> None:
    install(tmp_path)
    found = installed(tmp_path)
    for page in (ROOT / "packaging/man").glob("*.[1-8]"):
        assert f"/usr/local/share/man/man{page.suffix[1:]}/{page.name}" in found
    scripts = runpy.run_path(str(ROOT / "packaging/completion/make.py"))["scripts"]()
    places = {
        "bash": "bash-completion/completions/batchns",
        "zsh": "zsh/site-functions/_batchns",
        "fish": "fish/vendor_completions.d/batchns.fish",
    }
    for shell, place in places.items():
        assert found[f"/usr/local/share/{place}"] == 0o644
        text = (tmp_path / f"usr/local/share/{place}").read_text()
        assert text == scripts[f"batchns.{shell}"], "python packaging/completion/make.py"
        assert "_BATCHNS_COMPLETE" in text
        assert shell != "zsh" or text.startswith("#compdef batchns\n")  # the line that compinit reads


def test_settings_that_are_there_stay(tmp_path: Path) -> None:
    own = tmp_path / "etc/batchns/batchns.toml"
    own.parent.mkdir(parents=True)
    own.write_text("# mine\n")
    assert "stays as it is" in install(tmp_path).stdout
    assert own.read_text() == "# mine\n"


@pytest.mark.parametrize("path", ["batchns", "/opt/my batchns"])
def test_a_program_that_no_unit_could_name_is_refused(tmp_path: Path, path: str) -> None:
    done = install(tmp_path, BATCHNS=path)
    assert done.returncode == 2 and done.stderr.startswith(f"install: BATCHNS={path} ")
    assert installed(tmp_path) == {}


def test_the_settings_to_begin_with_are_right(tmp_path: Path) -> None:
    install(tmp_path)
    config = parse_config((tmp_path / "etc/batchns/batchns.toml").read_bytes(), "batchns.toml")
    (group,) = config.daemon.admins.groups
    assert f"\ng {group} -\n" in (ROOT / "packaging/systemd/sysusers.conf").read_text()
    assert parse_config((tmp_path / "usr/local/share/doc/batchns/batchns.toml").read_bytes(), "f") == Config()


def test_the_folders_are_those_of_the_settings() -> None:
    unit = (ROOT / "packaging/systemd/batchns.service").read_text()
    folders = (ROOT / "packaging/systemd/tmpfiles.conf").read_text()
    for kind, path, above in (("State", Config().paths.state, "/var/lib/"), ("Runtime", Config().paths.run, "/run/")):
        assert f"\n{kind}Directory={path.removeprefix(above)}\n" in unit and f"\nd {path} 0" in folders


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
class TestSystemd:
    def verify(self, folder: Path, change: tuple[str, str] = ("", "")) -> list[str]:
        """What systemd says of the unit, but for what only newer ones know, and units of this machine."""
        install(folder, BATCHNS=PROGRAM)
        unit = folder / "etc/systemd/system/batchns.service"
        unit.write_text(unit.read_text().replace(*change))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        lines = (done.stdout + done.stderr).splitlines()
        return [line for line in lines if "batchns" in line and "DelegateSubgroup" not in line]

    def test_the_unit_is_understood(self, tmp_path: Path) -> None:
        assert self.verify(tmp_path) == []

    @pytest.mark.parametrize(
        ("right", "wrong"),
        [("KillMode=process", "KillMode=proces"), (PROGRAM, "/nowhere/batchns"), ("Delegate=", "Deleg=")],
    )
    def test_a_mistake_in_it_would_be_seen(self, tmp_path: Path, right: str, wrong: str) -> None:
        assert self.verify(tmp_path, (right, wrong)) != []

    def test_groups_and_folders_are_made(self, tmp_path: Path) -> None:
        install(tmp_path, PREFIX="/usr")
        (tmp_path / "etc").mkdir(exist_ok=True)
        for program, *options in (("systemd-sysusers",), ("systemd-tmpfiles", "--create")):
            if shutil.which(program) is None or os.geteuid() != 0:
                pytest.skip(f"no {program}, or not root")
            subprocess.run([program, *options, f"--root={tmp_path}", "batchns.conf"], check=True, timeout=60)
        assert "batchns-admin:" in (tmp_path / "etc/group").read_text()
        assert stat.S_IMODE((tmp_path / "var/lib/batchns").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "run/batchns").stat().st_mode) == 0o755


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_jobs_run_without_the_capabilities_that_the_unit_takes_away(tmp_path: Path) -> None:
    unit = (ROOT / "packaging/systemd/batchns.service").read_text()
    taken = [
        name.removeprefix("CAP_").lower()
        for line in re.findall("^CapabilityBoundingSet=~(.*)$", unit, re.MULTILINE)
        for name in line.split()
    ]
    assert len(taken) > 10 and not {"sys_admin", "net_admin", "setuid", "mknod", "kill"} & set(taken)
    without = ",".join(f"-{name}" for name in taken)
    done = subprocess.run(
        ["setpriv", "--bounding-set", without, PROGRAM, "run", "--egress", "10mbit", "--", "/bin/true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr + done.stdout
