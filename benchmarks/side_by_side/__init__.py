"""The whole endpoint beside the published ones, and beside what a user might pick instead.

`make bench` runs it; `docs/performance.md` has its last table and says how to read it.
"""
