"""Run a function on each endpoint whose id is given; print what came back, a line each."""

import sys

from globus_compute_sdk import Executor


def double(number):
    return 2 * number


for endpoint_id in sys.argv[1:]:
    with Executor(endpoint_id=endpoint_id) as executor:
        print(executor.submit(double, 21).result(timeout=120))
