"""What every part may use: files, errors, devices, gaps of third parties. Imports no other part of the package."""
