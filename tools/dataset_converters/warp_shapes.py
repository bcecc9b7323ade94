#!/usr/bin/env python
"""``dinor1 make-data shapes-warped`` as a tool."""

import sys

from dinor1.cli.start import main

if __name__ == '__main__':
    main(['shapes-warped', *sys.argv[1:]], tool='make-data')
