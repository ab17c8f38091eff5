"""`python -m contagg` is the command `contagg`."""

from contagg.cli import main

if __name__ == "__main__":
    main()
