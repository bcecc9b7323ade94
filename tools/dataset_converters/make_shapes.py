#!/usr/bin/env python
"""``dinor1 make-data shapes`` as a tool."""

import sys

from dinor1.cli.start import main

if __name__ == '__main__':
    main(['shapes', *sys.argv[1:]], tool='make-data')
