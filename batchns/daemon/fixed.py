"""Settings that a running daemon cannot change: what it made of them, jobs are running in."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from attrs import evolve

from batchns.model.config import Config, Tls

_FIXED = (
    *("paths.state", "paths.run", "cgroup.parent"),
    *("network.pool", "network.pool6", "network.nat", "network.outside", "network.dns", "network.host", "network.mtu"),
    *("isolation.id_start", "isolation.id_ranges", "isolation.subid_owner"),
    "daemon.socket",
)


def keep_fixed(config: Config, held: Config) -> tuple[Config, tuple[str, ...]]:
    """`config` with what cannot change as it is in `held`, and the names of the settings where they differ."""
    waiting = tuple(name for name in _FIXED if attrgetter(name)(config) != attrgetter(name)(held))
    for name in waiting:
        table, _, key = name.partition(".")
        changed = evolve(getattr(config, table), **{key: attrgetter(name)(held)})
        config = evolve(config, **{table: changed})
    tls, listening = _keep_listening(config.daemon.tls, held.daemon.tls)
    return evolve(config, daemon=evolve(config.daemon, tls=tls)), (*waiting, *listening)


def _keep_listening(tls: Tls | None, held: Tls | None) -> tuple[Tls | None, tuple[str, ...]]:
    """Certificates and users may change, but not where the daemon listens, or whether it does."""
    if tls is None or held is None:
        return held, () if tls is held else ("daemon.tls",)
    return evolve(tls, listen=held.listen), () if tls.listen == held.listen else ("daemon.tls.listen",)


def needs_restart(names: Sequence[str]) -> str:
    """A line for the administrator, "" for none."""
    return f"needs a restart: {', '.join(names)}" if names else ""
