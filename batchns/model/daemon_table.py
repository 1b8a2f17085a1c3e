"""What batchns.toml says of the daemon: [daemon], [history], [output], [metrics]."""

from __future__ import annotations

import os
import re
from typing import Any

from batchns.errors import UserError
from batchns.model.config import (
    Admins,
    DaemonSettings,
    HistorySettings,
    MetricsSettings,
    OutputSettings,
    See,
    Tls,
)
from batchns.model.kinds import (
    Field,
    Kind,
    Table,
    boolean,
    choice,
    duration,
    integer,
    list_of,
    mapping_of,
    matching,
    size,
    text,
)
from batchns.model.queue_table import user_or_group
from batchns.model.values import check_path
from batchns.units import format_duration, format_size, quote

MAX_CONNECTIONS = 10_000
LONGEST_SOCKET = 107  # bytes: struct sockaddr_un, unix(7)
LEAST_SIZE = 1 << 20  # less is no more than the blocks that a trimmed file keeps
_HOST = r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]"


def _socket(value: str) -> str:
    path = check_path(value)
    if (length := len(os.fsencode(path))) > LONGEST_SOCKET:
        what = f"{quote(value)} is {length} bytes long, and a socket's path has at most {LONGEST_SOCKET}"
        raise UserError(what, 'write a shorter one, for example "/run/batchns/batchns.sock"')
    return path


def _listen(value: str) -> tuple[str, int]:
    found = re.fullmatch(f"({_HOST}):([0-9]{{1,5}})", value)
    if not found or not 1 <= int(found[2]) <= 65535:
        raise UserError(
            f"{quote(value)} is not an address and a port", 'write for example "0.0.0.0:7443" or "[::]:7443"'
        )
    return found[1].strip("[]"), int(found[2])


def _max_size() -> Kind[int | None]:
    """A size, or None for "none"."""
    sized = size(LEAST_SIZE, example='"1GiB"')

    def read(value: Any) -> int | None:
        return None if value == "none" else sized.read(value)

    return Kind(read, {"anyOf": [sized.schema, {"const": "none"}]})


def _mode(value: str) -> int:
    hint = 'write "0600", "0640" or "0644": who besides the owner may read'
    if not re.fullmatch("0?[0-7]{3}", value):
        raise UserError(f"{quote(value)} is not a file's mode", hint)
    mode = int(value, 8)
    if mode & 0o600 != 0o600 or mode & 0o133:
        raise UserError(
            f"{quote(value)} is no mode for output: its owner reads and writes it, others read at most", hint
        )
    return mode


def _required_path(meaning: str, name: str) -> Field:
    example = f'"/etc/batchns/{name}.pem"'
    return Field(text(check_path, example=example, pattern="^/"), meaning, required=f"write {name} = {example}")


_DAEMON = DaemonSettings()
_HISTORY = HistorySettings()
_OUTPUT = OutputSettings()
_METRICS = MetricsSettings()

ADMINS: Table[Admins] = Table(
    make=Admins,
    fields={
        "users": Field(
            list_of(user_or_group("a user's name", '"alice"'), example='["alice"]'), "Users, besides root.", "none"
        ),
        "groups": Field(
            list_of(user_or_group("a group's name", '"wheel"'), example='["wheel"]'),
            "Groups whose members are administrators, too.",
            "none",
        ),
    },
    where="daemon.admins",
)
TLS: Table[Tls] = Table(
    make=Tls,
    fields={
        "listen": Field(
            text(_listen, example='"0.0.0.0:7443"', pattern=f"^({_HOST}):[0-9]+$"),
            "Address and port.",
            required='write listen = "0.0.0.0:7443"',
        ),
        "certificate": _required_path(
            "The daemon's certificate, and those between it and its authority's.", "certificate"
        ),
        "key": _required_path("The key of the certificate; a file that only root can read.", "key"),
        "ca": _required_path("The authorities whose clients are let in.", "ca"),
        "users": Field(
            mapping_of(
                user_or_group("a user's name", '"alice"'),
                matching(
                    r"[^\x00-\x1f\x7f]{1,64}",
                    what="a certificate's name",
                    hint='write the common name of its subject: "Alice Ng"',
                    example='"Alice Ng"',
                ),
                where="daemon.tls.users",
            ),
            'By the name in a certificate (the CN) the user here: "Alice Ng" = "alice". Root must be named so.',
            "the name in the certificate is the user's",
        ),
    },
    where="daemon.tls",
)
DAEMON: Table[DaemonSettings] = Table(
    make=DaemonSettings,
    fields={
        "socket": Field(
            text(_socket, example='"/run/batchns/batchns.sock"', pattern="^/"),
            "The socket at which it listens.",
            "batchns.sock in paths.run",
        ),
        "admins": Field(ADMINS, "Who may do with everybody's jobs what only their owners may, and drain the node."),
        "see": Field(
            choice(See),
            "Whose jobs a user sees in lists: own, or all. Output and environment stay the owner's in any case.",
            f'"{_DAEMON.see.value}"',
        ),
        "tls": Field(TLS, "Where it listens beside the socket, for clients with a certificate."),
        "connections": Field(
            integer(1, MAX_CONNECTIONS, example="100"),
            "How many connections one user may have at a time.",
            str(_DAEMON.connections),
        ),
    },
    where="daemon",
)
HISTORY: Table[HistorySettings] = Table(
    make=HistorySettings,
    fields={
        "keep": Field(
            duration(example='"90d"'), "How long jobs that are over are known.", f'"{format_duration(_HISTORY.keep)}"'
        ),
    },
    where="history",
)
OUTPUT: Table[OutputSettings] = Table(
    make=OutputSettings,
    fields={
        "max_size": Field(
            _max_size(),
            'How much of the disk one file may take; what is in its middle is left out then. "none": no bound.',
            f'"{format_size(_OUTPUT.max_size or 0)}"',
        ),
        "mode": Field(
            text(_mode, example='"0600"', pattern="^0?6[04][04]$"),
            "The mode of a file that is made: who besides its owner may read it.",
            f'"{_OUTPUT.mode:04o}"',
        ),
    },
    where="output",
)
METRICS: Table[MetricsSettings] = Table(
    make=MetricsSettings,
    fields={
        "listen": Field(
            text(_listen, example='"127.0.0.1:9753"', pattern=f"^({_HOST}):[0-9]+$"),
            "Where they are served to whoever asks, without a question who that is: address and port.",
            "nowhere but at the daemon's socket",
        ),
        "max_jobs": Field(
            integer(0, 100_000, example="1000"),
            "How many running jobs have series of their own, those that started first.",
            str(_METRICS.max_jobs),
        ),
        "linger": Field(
            duration(example='"60s"', zero=True),
            "How long a job that is over keeps them, so that somebody sees the last values.",
            f'"{format_duration(_METRICS.linger)}"',
        ),
        "names": Field(boolean(), "Whether jobs' names are told.", "true"),
    },
    where="metrics",
)
