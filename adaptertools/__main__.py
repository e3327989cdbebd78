"""`python -m adaptertools` is `adaptertools`."""

from adaptertools.cli import main

if __name__ == "__main__":
    main()
