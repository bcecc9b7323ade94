#!/usr/bin/env python
"""``dinor1 train`` under MMDetection's name."""

from dinor1.cli.start import main

if __name__ == '__main__':
    main(tool='train')
