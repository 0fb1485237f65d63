"""`python -m cep.engines.interchange_main`: the process that agent and managers meet in."""

from cep.cycles import do_not_look_while_loading

if __name__ == "__main__":
    do_not_look_while_loading()
    from cep.engines.interchange import main

    main()
