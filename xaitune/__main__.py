"""`python -m xaitune`: the command line."""

from xaitune.cli.app import main

if __name__ == "__main__":
    main()
