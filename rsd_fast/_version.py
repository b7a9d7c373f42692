"""The version, stated once: setup.py and rsd_fast.__version__ both read it, neither importing torch."""

__version__ = "0.1.0"
