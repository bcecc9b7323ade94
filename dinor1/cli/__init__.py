"""The command line: options, prompt arguments, errors and exit status."""
