"""`batchns completion`: what makes a shell complete commands, options and ids of jobs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_BATCHNS_COMPLETE"
_WHERE = {
    "bash": "/usr/share/bash-completion/completions/batchns, or ~/.local/share/bash-completion/completions/batchns",
    "zsh": "a folder of $fpath, as _batchns",
    "fish": "~/.config/fish/completions/batchns.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete commands, options and ids of jobs.

    \b
    In ~/.bashrc:                   eval "$(batchns completion bash)"
    In ~/.zshrc, after compinit:    eval "$(batchns completion zsh)"
    For fish:
      batchns completion fish > ~/.config/fish/completions/batchns.fish

    Ids, names and queues come from the daemon; without one there are none.
    """
    click.echo(script(shell))


def script(shell: str) -> str:
    kind = get_completion_class(shell)
    assert kind is not None, shell
    # Not `source()`: for bash it starts a bash to look at its version.
    made = kind(click.Group(), {}, "batchns", VARIABLE)
    text = made.source_template % made.source_vars()
    # What is said there would stand in the middle of somebody's line.
    text = text.replace("(env ", "(env 2>/dev/null ", 1)
    # zsh looks for #compdef in the first line of a file, and nowhere else: zshcompsys(1).
    first, rest = text.split("\n", 1) if text.startswith("#compdef") else ("", text)
    return f"{first}{first and chr(10)}# To be read by {shell}: {_WHERE[shell]}\n{rest}"
