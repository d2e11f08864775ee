"""``python -m tunesmith.cli``: the command, for processes that cannot trust the search path for programs."""

from tunesmith.cli.main import main

if __name__ == "__main__":
    main()
