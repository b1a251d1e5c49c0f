"""Run the command: ``python -m mpsr``."""

from mpsr.cli import main

if __name__ == "__main__":
    main()
