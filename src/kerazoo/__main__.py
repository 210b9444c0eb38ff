"""`python -m kerazoo`: the command line."""

from kerazoo.cli.app import main

if __name__ == "__main__":
    main()
