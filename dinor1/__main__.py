"""``python -m dinor1``: the command line."""

from dinor1.cli.start import main

if __name__ == '__main__':
    main()
