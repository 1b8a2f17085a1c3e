"""A real Prometheus in a folder of its own, that scrapes one daemon each second and evaluates the rules."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from grafana.source.asking import Prometheus

from ..alone import end_with_parent
from ..system.conftest import until

_RULES = Path(__file__).parents[2] / "grafana/rules"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Ready, and gone afterwards, however it goes."""
    at = f"127.0.0.1:{free_port()}"
    settings = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [f"{_RULES}/*.yml"],
        "scrape_configs": [{"job_name": "batchns", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    options = (
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={at}",
        "--log.level=warn",
    )
    log = folder / "prometheus.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["prometheus", *options], stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=end_with_parent
        )
    server = Prometheus(f"http://{at}")
    try:
        until(lambda: _answers(server, process, log), 30)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with contextlib.suppress(OSError):
        return bool(server.at("vector(1)"))
    return False
