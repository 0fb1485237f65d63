"""One target in a process of its own: `python -m tests.fuzz.child TARGET SECONDS SEED WORK`.

`WORK` is the directory for what is found: inputs of new coverage and, on failure, the input that
failed. Ends with 77 when an input failed, 70 when one took too long, 71 when it took too much
memory (libFuzzer's statuses).
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from tests.fuzz import mutator
from tests.fuzz.target import INPUT_LIMIT_S, MEMORY_LIMIT_MB, kept, name_of

try:
    import atheris
except ImportError:
    atheris = None


def main(name: str, seconds: int, seed: int, work: Path) -> None:
    """Fuzz one target."""
    # A hostile peer is worth a line each time; the targets look at the ones that matter.
    logging.getLogger("cep").addHandler(logging.NullHandler())
    logging.getLogger("cep").propagate = False
    from tests.fuzz import targets

    if atheris is None:
        target = targets.load(name)
    else:
        # The code under test only: the interpreter's own libraries would cost more than they tell.
        with atheris.instrument_imports(include=["cep", "pamqp"]):
            target = targets.load(name)
    seeds = [*target.seeds(), *kept(name).values()]
    with target.open() as one:
        if atheris is None:
            print("engine: mutator", file=sys.stderr)
            sys.exit(
                mutator.run(
                    one,
                    seeds,
                    seconds=seconds,
                    seed=seed,
                    longest=target.longest,
                    artifacts=work,
                )
            )
        print("engine: atheris", file=sys.stderr)
        found = work / "found"
        found.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            for data in seeds:
                (Path(folder) / name_of(data)).write_bytes(data[: target.longest])
            atheris.Setup(
                [
                    sys.argv[0],
                    f"-max_total_time={seconds}",
                    f"-timeout={INPUT_LIMIT_S}",
                    f"-rss_limit_mb={MEMORY_LIMIT_MB}",
                    f"-seed={seed}",
                    f"-max_len={target.longest}",
                    f"-artifact_prefix={work}/",
                    "-len_control=0",
                    "-print_final_stats=1",
                    str(found),
                    folder,
                ],
                one,
            )
            atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
