"""`python -m tally`: the command. Ctrl-C while it is still being loaded ends it without a stack trace."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

from tally.cli import main  # noqa: E402

signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    main(prog_name="tally")
