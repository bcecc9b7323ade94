#!/usr/bin/env python
"""``dinor1 convert coco2odvg`` as a tool."""

import sys

from dinor1.cli.start import main

if __name__ == '__main__':
    main(['coco2odvg', *sys.argv[1:]], tool='convert')
