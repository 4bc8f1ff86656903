"""`python -m tests.chaos.check results/chaos-….jsonl …`: the verdicts on recorded histories.

Exit code 0 if every invariant holds, 1 if one is violated, 2 if a history ended too early to decide them all.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.checker import check
from tests.chaos.history import NotAHistory, read
from tests.chaos.verdict import Verdict, described


def main(paths: Sequence[str]) -> int:
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    return max(_judge(Path(path)) for path in paths)


def _judge(path: Path) -> int:
    try:
        history = read(path)
    except (OSError, NotAHistory) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    verdicts = check(history)
    print(f"{path}: {len(history.requests)} requests, {len(history.faults)} faults, seed {history.header.seed}")
    print(described(verdicts))
    return exit_code(verdicts)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    if any(verdict.violations for verdict in verdicts):
        return 1
    return 0 if all(verdict.decided for verdict in verdicts) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
