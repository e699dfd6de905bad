"""`python -m bench`: the same command line as `mergesafe`."""

from bench.cli import main

if __name__ == "__main__":
    main()
