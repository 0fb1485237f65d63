"""`python -m cep.engines.interchange_main`: the process that agent and managers meet in."""

from cep.engines.interchange import main

if __name__ == "__main__":
    main()
