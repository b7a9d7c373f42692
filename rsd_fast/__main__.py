"""`python -m rsd_fast` is `rsd-fast`; the form that torchrun needs."""

from rsd_fast.cli.main import main

if __name__ == "__main__":
    main()
