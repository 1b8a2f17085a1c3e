"""What confines a job by a name beside its sandbox: an AppArmor profile, an SELinux label."""

from __future__ import annotations

from collections.abc import Iterable

from batchns.errors import HostError, UserError
from batchns.kernel.lsm import APPARMOR, SELINUX
from batchns.model.config import Config, IsolationSettings
from batchns.model.job import Isolation
from batchns.model.result import LimitReading
from batchns.units import quote

_KEYS = {APPARMOR: "apparmor", SELINUX: "selinux_label"}

Confined = tuple[tuple[str, str], ...]  # see `launch.plan.Command`


def confinement(wanted: Isolation, settings: IsolationSettings) -> Confined:
    """What a job is executed under: what it names, else what batchns.toml says for every job.

    Raises:
        UserError: the name was there when the job was submitted, and batchns.toml has it no longer.
    """
    found = []
    for module, asked, default, allowed in (
        (APPARMOR, wanted.apparmor, settings.apparmor, settings.apparmor_names),
        (SELINUX, wanted.selinux_label, settings.selinux_label, settings.selinux_names),
    ):
        if asked is not None and asked not in allowed:
            what = f"isolation.{_KEYS[module]} = {quote(asked)} is not allowed by batchns.toml any more"
            raise UserError(what, f"choose from {', '.join(allowed)}" if allowed else "remove it")
        name = default if asked is None else asked
        if name is not None:
            found.append((module, name))
    return tuple(found)


def check_default(config: Config, running: Iterable[str]) -> None:
    """What batchns.toml says for every job has to be possible here.

    Raises:
        HostError: it is not.
    """
    for module, name in confinement(Isolation(), config.isolation):
        if module not in running:
            what = f"isolation.{_KEYS[module]} = {quote(name)} in batchns.toml: this kernel does not run {module}"
            raise HostError(what, f"boot with {module.lower()} among those of lsm=, or remove the line")


def confinement_readings(confined: Confined, held: tuple[str, ...]) -> dict[str, LimitReading]:
    """`held`: what the kernel said of the command when it had been executed."""
    found = {}
    for number, (module, name) in enumerate(confined):
        value = held[number] if number < len(held) else ""
        why = "" if value else "as asked for: the job was over before it could be read back"
        found[_KEYS[module]] = LimitReading(value or name, module, why)
    return found
