"""`python -m cep.engines.pool_main`: the worker pool of one node of a block."""

from cep.engines.pool import main

if __name__ == "__main__":
    main()
