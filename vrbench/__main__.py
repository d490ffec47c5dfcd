"""`python -m vrbench` is the program too."""

from vrbench.cli import main

if __name__ == "__main__":
    main()
