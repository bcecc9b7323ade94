#!/usr/bin/env python
"""``dinor1 convert objects365`` as a tool."""

import sys

from dinor1.cli.start import main

if __name__ == '__main__':
    main(['objects365', *sys.argv[1:]], tool='convert')
