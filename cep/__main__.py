"""`python -m cep`: the same program as `cep`."""

from cep.cli.main import main

if __name__ == "__main__":
    main()
