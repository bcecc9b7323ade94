#!/usr/bin/env python
"""``dinor1 study run`` as a tool."""

import sys

from dinor1.cli.start import main

if __name__ == '__main__':
    main(['run', *sys.argv[1:]], tool='study')
