"""Whether `tally` has a command that a page writes: it is parsed, and nothing is run."""

from __future__ import annotations

import shlex

from click import Command, Context, Group, UsageError

from tally.cli import main


def is_command(line: str) -> bool:
    """Whether `tally` takes the line (what comes after its name); a word in capitals stands for a value."""
    found: Command = main
    words = shlex.split(line)
    while words and isinstance(found, Group):
        if words[0] in found.commands:
            found = found.commands[words.pop(0)]
        elif type(found) is not Group:  # `tally operation ID` is `tally operation show ID`
            found = found.commands["show"]
        else:
            return False
    try:
        _, left, _ = found.make_parser(Context(found, resilient_parsing=True)).parse_args(words)
    except UsageError:
        return False
    return left == []
