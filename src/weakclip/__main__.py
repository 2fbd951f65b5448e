"""`python -m weakclip` is the command line."""

from weakclip.cli import main

if __name__ == "__main__":
    main()
