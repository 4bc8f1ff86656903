"""The one exception of this room."""


class LocalError(Exception):
    """One sentence for the person at the terminal: what is wrong and what to do. Shown without a stack trace."""
