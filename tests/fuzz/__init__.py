"""Fuzzing: what parses bytes of others, fed with bytes that nobody would send.

`make fuzz` runs every target for a while with atheris (coverage-guided; libFuzzer enforces the time
and memory limits per input) or, where atheris is not installed, with the small mutator in
`mutator.py`. The inputs worth keeping are in `corpus/`; the unit tests replay them.
"""
