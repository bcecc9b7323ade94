"""Adapters that turn building blocks into detector backbones."""
