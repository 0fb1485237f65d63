"""What `cep demo` runs, as a researcher's own script: the official SDK's Executor, nothing of ours.

Run as a program of its own (`python -m cep.cli.demo_functions ENDPOINT_ID`), so that the functions
travel by value as those of any script do, and so that the SDK sees only environment variables. The
last line on stdout is JSON: `{"run": N, "received": N}`. One thread; the SDK has its own.
"""

from __future__ import annotations

import json
import sys

RESULT_TIMEOUT_S = 60.0


def square(number: int) -> int:
    """Multiply a number by itself."""
    return number * number


def where() -> str:
    """Tell which process on which host runs this."""
    import os
    import platform

    return f"process {os.getpid()} on {platform.node()}, Python {platform.python_version()}"


def fail() -> None:
    """Raise, to show that exceptions travel back."""
    raise ValueError("this function fails on purpose")


def main(endpoint_id: str) -> int:
    """Submit the functions, print their results; return 0 when all came back as expected."""
    from globus_compute_sdk import Executor, ShellFunction, __version__

    print(f"Running functions with the Executor of globus-compute-sdk {__version__}:")
    with Executor(endpoint_id=endpoint_id) as executor:
        squares = [executor.submit(square, number) for number in range(20)]
        place = executor.submit(where)
        shell = executor.submit(ShellFunction("echo hello from {who}"), who="the shell")
        failing = executor.submit(fail)
        futures = [*squares, place, shell, failing]

        values = [future.result(timeout=RESULT_TIMEOUT_S) for future in squares]
        print(f"  square(0) ... square(19)   {' '.join(map(str, values))}")
        print(f"  where()                    {place.result(timeout=RESULT_TIMEOUT_S)}")
        said = shell.result(timeout=RESULT_TIMEOUT_S).stdout.strip()
        print(f"  ShellFunction('echo ...')  {said}")
        error = failing.exception(timeout=RESULT_TIMEOUT_S)
        told = str(error).strip().splitlines()
        print(f"  fail()                     {told[-1].strip() if told else error!r}")

    right = values == [number * number for number in range(20)]
    right = right and said == "hello from the shell" and "fails on purpose" in str(error)
    received = sum(future.done() for future in futures)
    print(json.dumps({"run": len(futures), "received": received}), flush=True)
    return 0 if right and received == len(futures) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
