"""What of a job its node has to know, from the JSON of `model.portable`: no class of the model is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Wanted(NamedTuple):
    """As of `model.job.JobSpec`. `warn`: (signal's number, seconds before the time limit)."""

    name: str
    mode: str
    rates: Mapping[str, int]  # of "egress", "ingress" those that are asked for
    resources: Mapping[str, Any]
    env: Mapping[str, str]
    max_retries: int
    retry_delay: float
    warn: tuple[int, float] | None
    seccomp: str

    @property
    def strict(self) -> bool:
        return bool(self.resources.get("strict"))


def wanted(spec: Mapping[str, Any]) -> Wanted:
    network, warn = spec.get("network", {}), spec.get("warn")
    return Wanted(
        name=spec["name"],
        mode=network.get("mode", "private"),
        rates={name: network[name] for name in ("egress", "ingress") if network.get(name) is not None},
        resources=spec.get("resources", {}),
        env=spec.get("env", {}),
        max_retries=spec.get("max_retries", 0),
        retry_delay=spec.get("retry_delay", 0.0),
        warn=None if warn is None else (warn["signal"], warn["before"]),
        seccomp=spec.get("isolation", {}).get("seccomp", "default"),
    )
