"""The ways in which a sandbox is had from batchns, and what attacks are controlled by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import field, frozen

from ..daemon.live import Live, toml
from . import neighbours, runners, scene, tree
from .runners import Outcome
from .scene import Scene
from .table import Attack

MALLORY, VICTOR = 31701, 31702
SETTINGS = 'images = ["BASE/images"]\n[output]\nmax_size = "16MiB"\n'


@frozen(kw_only=True)
class Mode:
    """`user`: who submits, None for root. `rootfs`: "host", "folder", "image". `network`: "private", "none"."""

    user: str | None
    identity: str
    rootfs: str = "host"
    network: str = "private"

    @property
    def name(self) -> str:
        return f"{self.user or 'root'}, {self.identity}, {self.rootfs}, {self.network}"

    @property
    def column(self) -> str:
        return "root" if self.user is None else "user"

    @property
    def uid(self) -> int:
        return {None: 0, "mallory": MALLORY, "victor": VICTOR}[self.user]


_WHO = (("mallory", "self"), ("mallory", "root"), (None, "private"))
MODES = tuple(
    Mode(user=user, identity=identity, rootfs=rootfs, network=network)
    for user, identity in _WHO
    for rootfs in ("host", "folder", "image")
    for network in ("private", "none")
)
CONNECTED = tuple(mode for mode in MODES if mode.network == "private")  # identity by root, for what is no way out
ON_HOST = tuple(mode for mode in CONNECTED if mode.rootfs == "host")


_TOGETHER = ("user", "root", "chroot", "launcher", "pinned")  # controls in which attacks do not disturb each other


@frozen(kw_only=True)
class World:
    """A daemon, and a small root file system for those who want one."""

    daemon: Live
    root: Path
    image: Path
    _made: dict[str, Any] = field(factory=dict)

    def run(self, mode: Mode, module: str, attacks: tuple[Attack, ...], more: str = "") -> dict[str, Outcome]:
        """The attacks as one job. `more`: what it asks for besides, in [resources]."""
        with self.scene(mode.uid) as one:
            return runners.judged(one, module, attacks, lambda argv: self._job(mode, one.work, argv, more, one.visible))

    @contextlib.contextmanager
    def scene(self, uid: int) -> Iterator[Scene]:
        """With this daemon in it, which has a job of root's that knows the secret."""
        with scene.make(uid, VICTOR, self.daemon.base) as one:
            self.daemon.over(self.daemon.submit("--env", f"TOKEN={one.token}", "--", "true"))
            one.known["control"] = str(self.daemon.socket)
            one.known["folders"] = [str(self.daemon.run), str(self.daemon.base / "state")]
            one.tell_attacker()
            yield one

    def run_beside(self, mode: Mode, module: str, attacks: tuple[Attack, ...]) -> dict[str, Outcome]:
        """The attacks as jobs, beside a job of the same user and one of another; each that is `apart` by itself."""
        groups = [tuple(one for one in attacks if not one.apart), *((one,) for one in attacks if one.apart)]
        return {
            name: found for group in groups if group for name, found in self._run_beside(mode, module, group).items()
        }

    def _run_beside(self, mode: Mode, module: str, attacks: tuple[Attack, ...]) -> dict[str, Outcome]:
        with scene.make(mode.uid, VICTOR, self.daemon.base) as one, contextlib.ExitStack() as stack:
            for user in (mode.user, "victor"):
                quiet = Mode(user=user, identity="self" if user else "private")
                self._beside(one, stack, quiet.uid, lambda who, argv, quiet=quiet: self._job(quiet, who.work, argv))
            return runners.judged(one, module, attacks, lambda argv: self._job(mode, one.work, argv))

    def _beside(self, one: Scene, stack: contextlib.ExitStack, uid: int, start: Callable[..., Any]) -> None:
        one.neighbours.append(stack.enter_context(neighbours.make(uid, self.daemon.base, one.token, start)))
        one.tell_attacker()

    def _job(
        self, mode: Mode, folder: Path, argv: list[str], more: str = "", shown: Path | None = None
    ) -> Callable[[], str]:
        """`shown`: a folder that the host's root shows, and that other roots have as a read-only bind."""
        text = toml(name="attack", command=argv, time_limit="3m")
        text += f'isolation.identity = "{mode.identity}"\nnetwork.mode = "{mode.network}"\n'
        text += (
            'resources = { cpus = 0.5, memory = "512MiB", pids = 256, scratch = "64MiB"' + f"{more and ', '}{more} }}\n"
        )
        if mode.rootfs != "host":
            text += f'isolation.rootfs = "{self.image if mode.rootfs == "image" else self.root}"\n'
            text += toml(**{"isolation.binds": [f"{shown}:{shown}:ro"]}) if shown else ""
        (folder / "attack.toml").write_text(text)
        ran = self.daemon("submit", "--parsable", "attack.toml", user=mode.user, cwd=folder)
        assert ran.code == 0, ran
        job = ran.stdout.strip()

        def why() -> str:
            row = self.daemon.row(job)
            if row.state in ("PENDING", "STARTING", "RUNNING"):
                return ""
            return f"{row.state}: {row.reason}: {self._said(folder)}"

        return why

    @staticmethod
    def _said(folder: Path) -> str:
        return "".join(path.read_text() for path in folder.glob("attack-*.[oe][ur][tr]"))

    def control(self, attacks: tuple[Attack, ...], module: str) -> dict[str, Outcome]:
        """The attacks, which have one control in common, without a sandbox."""
        (control,) = {attack.control for attack in attacks}
        uid = MALLORY if control in ("user", "launcher", "own_init", "pinned") else 0
        with (
            self.scene(uid) as one,
            runners.plain(one, self._start(control, one)) as start,
        ):
            return runners.judged(one, module, attacks, start)

    def controls(self, attacks: tuple[Attack, ...], module: str) -> dict[str, Outcome]:
        """All that can be shown; those that change what others see each for itself."""
        able = [attack for attack in attacks if not attack.lacks()]
        groups = [tuple(one for one in able if one.control == kind) for kind in _TOGETHER]
        groups += [(attack,) for attack in able if attack.control not in _TOGETHER]
        return {name: found for group in groups if group for name, found in self.control(group, module).items()}

    def controls_beside(self, attacks: tuple[Attack, ...], module: str) -> dict[str, Outcome]:
        """All that can be shown, as processes beside another one of the same user."""
        able = [attack for attack in attacks if not attack.lacks()]
        groups = [
            *(
                tuple(one for one in able if one.control == kind and not (one.disturbs or one.apart))
                for kind in ("user", "root")
            ),
            *((one,) for one in able if one.disturbs or one.apart),
        ]
        found = {}
        for group in filter(None, groups):
            uid = 0 if group[0].control == "root" else MALLORY
            found |= self._processes(uid, module, group, lambda folder, state, shown: list, beside=True)
        return found

    def peer(self, name: str, module: str, attacks: tuple[Attack, ...], *, beside: bool = False) -> dict[str, Outcome]:
        """The attacks in another sandbox: "bwrap", "batchns" as a user, "runc" as root; beside one more of the kind."""

        def started(folder: Path, state: Path, shown: Path) -> Callable[[list[str]], list[str]]:
            if name == "runc":
                return runners.in_runc(folder, self.root, state, shown)
            return runners.in_bwrap(folder) if name == "bwrap" else runners.without_root

        return self._processes(0 if name == "runc" else MALLORY, module, attacks, started, beside=beside)

    def _processes(
        self, uid: int, module: str, attacks: tuple[Attack, ...], started: Any, *, beside: bool
    ) -> dict[str, Outcome]:
        with self.scene(uid) as one, contextlib.ExitStack() as stack:

            def start(who: neighbours.Neighbour, argv: list[str]) -> None:
                begin = stack.enter_context(
                    runners.plain(one, started(who.work, one.outside, one.visible), who.work, who.uid)
                )
                begin(argv)

            if beside:
                for who in (uid, VICTOR) if uid else (uid,):
                    self._beside(one, stack, who, start)
            with runners.plain(one, started(one.work, one.outside, one.visible)) as begin:
                return runners.judged(one, module, attacks, begin)

    def _start(self, control: str, one: Scene) -> Callable[[list[str]], list[str]]:
        if control == "namespaces":
            return runners.in_namespaces(one)
        if control == "chroot":
            return runners.in_chroot(self.root)
        if control == "launcher":
            return runners.by_launcher(one)
        return {"own_init": runners.in_a_pid_namespace, "pinned": runners.pinned}.get(control, list)


@contextlib.contextmanager
def world(daemon: Live) -> Iterator[World]:
    root = daemon.base / "root"
    root.mkdir()
    tree.make(root)
    yield World(daemon=daemon, root=root, image=tree.image(root, daemon.base / "images/small.squashfs"))
