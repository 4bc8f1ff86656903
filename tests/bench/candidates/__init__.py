"""The candidates; each starts everything it needs and stops it again."""

from tests.bench.candidates.candidate import Candidate, Ground, Start
from tests.bench.candidates.inserts import batched, single
from tests.bench.candidates.plain_gateway import plain_gateway
from tests.bench.candidates.tally_stack import bare_stack, tally_stack

CANDIDATES: dict[str, Start] = {"a": single, "b": batched, "c": plain_gateway, "d": tally_stack, "e": bare_stack}

__all__ = ["CANDIDATES", "Candidate", "Ground", "Start"]
