"""`python -m batchns`: the same as the `batchns` command, and, without its imports, the batch process of a cluster."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["exec-spec"] and len(sys.argv) == 3:
        from batchns.supervise.batch.main import main as batch

        sys.exit(batch(sys.argv[2]))
    from batchns.cli.main import main

    main()
