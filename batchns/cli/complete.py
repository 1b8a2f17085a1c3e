"""What a shell offers for an unfinished word: ids and names of jobs, states, queues. Silent where no daemon says them.

A defect is raised, as anywhere; the shell's script leaves away what is said of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from batchns.client.sync import Client
from batchns.errors import BatchnsError

_PATIENCE = 1.0  # seconds; somebody waits for the rest of a word
_MOST = 200  # a shell that offers more helps nobody


def jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of jobs that are not over, their names as help; names where the word begins like one."""
    try:
        with _client(ctx) as client:
            rows = client.jobs_page(limit=1000).jobs
    except BatchnsError:  # a message in the middle of somebody's line helps nobody
        return []
    found: dict[str, str] = {}
    for row in rows:
        if incomplete and not incomplete[0].isdigit():
            found.setdefault(row.name, f"{row.state.lower()} {row.id}")
        else:
            found.setdefault(row.id if "_" in incomplete else row.array_id, f"{row.name} {row.state.lower()}")
    return _items(found.items(), incomplete)


def queues(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        with _client(ctx) as client:
            rows = client.queues().queues
    except BatchnsError:
        return []
    return _items(((row.name, "") for row in rows), incomplete)


def states(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from batchns.cli.rows import SHORT

    return _items(((state, short) for state, short in SHORT.items()), incomplete.upper())


def _client(ctx: click.Context) -> Client:
    from batchns.cli.connect import make_client, socket_path

    client = make_client(socket_path(ctx.params.get("socket")))
    client.timeout = _PATIENCE
    return client


def _items(words: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    found: list[CompletionItem] = []
    for word, text in words:
        if word.startswith(incomplete) and len(found) < _MOST:
            options: dict[str, Any] = {"help": text} if text else {}
            found.append(CompletionItem(word, **options))
    return found
