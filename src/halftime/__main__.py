"""`python -m halftime`."""

from halftime.cli import main

if __name__ == "__main__":
    main()
