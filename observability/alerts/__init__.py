"""Recording and alert rules. `objectives.yaml` is built from `objectives.py`, and golden; the rest is by hand."""
