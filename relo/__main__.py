"""`python -m relo` is the `relo` program."""

from relo.cli.main import main

if __name__ == "__main__":
    main()
