"""Utilities for all parts of the package: files, errors, devices, configs, gaps in third-party packages."""
