#!/usr/bin/env python
"""``dinor1 validate`` as a tool."""

from dinor1.cli.start import main

if __name__ == '__main__':
    main(tool='validate')
