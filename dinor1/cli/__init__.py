"""The command line: options, and how a command ends."""
