"""`python -m batchns`: the same as the `batchns` command."""

from batchns.cli.main import main

if __name__ == "__main__":
    main()
