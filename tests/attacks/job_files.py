"""Hostile job files: each as a function of a scene, whose secret, canary and folders it goes for.

Whether a file is refused, fails or runs is the daemon's to say; what must not happen is the same for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from .scene import Scene

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\r\n\x7f"
LOOK = ["sh", "-c", "cat $(find /tmp/x . -maxdepth 3 -name secret) /tmp/x; find /tmp/x -maxdepth 2 | head -50; :"]
PROCESSES = [
    "sh",
    "-c",
    "cat /tmp/x/{victim}/environ | tr '\\0' '\\n'; test -e /tmp/x/{victim} && echo host\"'\"s processes; :",
]
CONNECT = [
    "/usr/bin/python3",
    "-c",
    "import glob, socket\nfor path in ['/tmp/x', *glob.glob('/tmp/x/*'), {control!r}]:\n    try:\n"
    "        socket.socket(socket.AF_UNIX).connect(path)\n        print('connected to', 'the daemon')\n"
    "    except OSError as error: print(error)",
]
LARGE = 60_000  # letters; a file has 64 KiB at most


def toml(name: str = "hostile", **keys: object) -> str:
    """Dots in keys are written as __."""
    """None: without that key."""
    lines = {"name": name, "command": ["true"], "resources__cpus": 0.02, "resources__memory": "64MiB", **keys}
    given = {key.replace("__", "."): value for key, value in lines.items() if value is not None}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items())


def bind(source: str, target: str = "/tmp/x", *more: str, look: list[str] = LOOK) -> Callable[[Scene], str]:
    """`more`: other binds before it."""

    def make(scene: Scene) -> str:
        binds = [one.format(**of(scene)) for one in (*more, f"{source}:{target}")]
        command = look if look is LOOK else [word.format(**of(scene)) for word in look]
        return toml(command=command, isolation__binds=binds)

    return make


def root(source: str) -> Callable[[Scene], str]:
    return lambda scene: toml(isolation__rootfs=source.format(**of(scene)))


def folder(path: str) -> Callable[[Scene], str]:
    return lambda scene: toml(command=LOOK, cwd=path.format(**of(scene)))


def output(path: str) -> Callable[[Scene], str]:
    return lambda scene: toml(command=["echo", "changed"], stdout=path.format(**of(scene)))


def keys(**of_file: object) -> Callable[[Scene], str]:
    return lambda _: toml(**of_file)  # type: ignore[arg-type]


def text(content: str) -> Callable[[Scene], str]:
    return lambda _: content


def of(scene: Scene) -> Mapping[str, object]:
    return {"outside": scene.outside, "work": scene.work, "visible": scene.visible, **scene.known}


HOSTILE: dict[str, Callable[[Scene], str]] = {
    # Where it runs, and what it sees
    "folder is a descriptor": folder("/proc/self/fd/3"),
    "folder is a descriptor by another name": folder("/dev/fd/4"),
    "folder is init's root": folder("/proc/1/root"),
    "folder is its own root": folder("/proc/self/root"),
    "folder goes up": folder("{work}/../../../../../../../proc/1/root"),
    "folder is a link": folder("{work}/link"),
    "folder is a file": folder("{work}/scene.json"),
    "bind of a descriptor": bind("/proc/self/fd/5"),
    "bind of init's root": bind("/proc/1/root"),
    "bind of its own root": bind("/proc/self/root"),
    "bind of a thread's root": bind("/proc/thread-self/root"),
    "bind through a link": bind("{work}/link"),
    "bind that goes up through a link": bind("{work}/link/../../.."),
    "bind of /dev": bind("/dev"),
    "bind of a device": bind("/dev/null"),
    "bind of a pipe": bind("{work}/pipe"),
    "bind of the daemon's folder": bind("{control}/..", look=CONNECT),
    "bind of the daemon's socket": bind("{control}", look=CONNECT),
    "no bind, and the daemon's socket": bind("{work}", look=CONNECT),
    "bind in a folder of root's": bind("{work}", "/mnt/made", "{visible}/of-root:/mnt"),
    "file in a folder of root's": bind("{work}/scene.json", "/mnt/made", "{visible}/of-root:/mnt"),
    "bind deep in a folder of root's": bind("{work}", "/mnt/made/there", "{visible}/of-root:/mnt"),
    "bind onto a link of a bind's": bind("{work}", "/mnt/link", "{work}:/mnt"),
    "bind of another's file": bind("{work}/others"),
    "bind of /proc": bind("/proc", look=PROCESSES),
    "bind of /sys": bind("/sys"),
    "bind of /sys/fs/cgroup": bind("/sys/fs/cgroup"),
    "bind onto /proc": bind("{work}", "/proc"),
    "bind below /proc": bind("{work}", "/proc/sys"),
    "bind onto /proc by a way around": bind("{work}", "/tmp/../proc/sys"),
    "bind onto /": bind("{work}", "/"),
    "bind onto / by a way around": bind("{work}", "/usr/.."),
    "bind onto init's root": bind("{work}", "/proc/1/root"),
    "bind onto a descriptor": bind("{work}", "/dev/fd/3"),
    "bind onto the interpreter": bind("{work}/scene.json", "/usr/bin/env"),
    "root is init's": root("/proc/1/root"),
    "root is a descriptor": root("/proc/self/fd/3"),
    "root is a pipe": root("{work}/pipe"),
    "root is a socket": root("{socket}"),
    "root is a device": root("/dev/zero"),
    "root is a file of the user's": root("{work}/garbage"),
    "root is an image of the user's": root("{work}/image"),
    "root has links in the place of mount points": root("{work}/root-of-links"),
    "root has files in the place of mount points": root("{work}/root-of-files"),
    # Where its output goes
    "output to a system file": output("/etc/passwd"),
    "output to the canary by a link": output("{work}/link-to-canary"),
    "output to a pipe": output("{work}/pipe"),
    "output to a device": output("/dev/full"),
    "output to a terminal": output("/dev/tty"),
    "output to its memory": output("/proc/self/mem"),
    "output to a descriptor": output("/proc/self/fd/2"),
    "output that goes up": output("../../../../../../etc/shadow"),
    "output to another's file": output("{work}/others"),
    # What it is called and made of
    "name with escapes": lambda _: toml(name=ESCAPES),
    "name that goes up": lambda _: toml(name="../../../tmp/x"),
    "name of 60 KB": lambda _: toml(name="x" * LARGE),
    "command with escapes": keys(command=["sh", "-c", "exit 3", ESCAPES]),
    "command of 60 KB": keys(command=["true", "x" * LARGE]),
    "command of 20000 words": keys(command=["true", *["x"] * 15_000]),
    "command with NUL": keys(command=["true", "a\0b"]),
    "command that is a folder": keys(command=["/etc"]),
    "command that is nothing": keys(command=[""]),
    "command that is not there": keys(command=[f"/{ESCAPES}"]),
    "script with NUL": keys(script="echo a\0b", command=None),
    "environment with NUL": keys(env={"A": "a\0b"}),
    "environment with escapes": keys(env={"A": ESCAPES}),
    "environment with a bad name": keys(env={"A=B\n": "x"}),
    "environment of batchns's": keys(env={"BATCHNS_JOB_ID": "1"}),
    "folder with NUL": keys(cwd="/tmp\0/x"),
    "folder with a newline": keys(cwd="/tmp/a\nb"),
    "folder that is no UTF-8": keys(cwd="/tmp/\udc80"),
    "bind with NUL": keys(isolation__binds=["/tmp\0:/tmp/x"]),
    "array of a billion": keys(array="0-999999999"),
    "array of negative numbers": keys(array="-5--1"),
    "array of 300 parts": keys(array=",".join(map(str, range(0, 600, 2))), hold=True),
    "numbers that are none": text('name = "x"\ncommand = ["true"]\nresources.cpus = nan\nresources.pids = inf\n'),
    "numbers without end": text(f'name = "x"\ncommand = ["true"]\npriority = {"9" * 5000}\n'),
    "memory below nothing": keys(resources__memory="-5GiB"),
    "memory of everything": keys(resources__memory="99999999999999999999TiB"),
    "time without end": keys(time_limit="9" * 400 + "d"),
    "a moment beyond time": keys(begin="9999-12-31T23:59:59+23:59"),
    "nested 20000 deep": text(f"name = {'[' * 20_000}{']' * 20_000}"),
    "tables 10000 deep": text(f"{'a.' * 10_000}a = 1"),
    "5000 jobs": text('[[job]]\nname="x"\n' * 3000),
    "too large": text("#" * 70_000),
    "no TOML at all": text("\x00\xff\x1b[31m" * 100),
    "keys with escapes": text(f"{json.dumps(ESCAPES)} = 1"),
    "waits for itself": keys(dependency=["afterok:hostile"]),
    "warns by a signal that ends": keys(warn_signal="KILL@1s", time_limit="1m"),
    "a profile by its path": keys(isolation__seccomp="/etc/passwd"),
    "the host's network": keys(network__mode="host"),
    "every address": keys(network__allow=["0.0.0.0/0", "host:1-65535", "::/0"]),
    "an unknown identity": keys(isolation__identity="host"),
    "private ids for a user": keys(isolation__identity="private"),
    "another user": keys(user="root", uid=0),
}
