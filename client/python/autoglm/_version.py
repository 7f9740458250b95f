"""The version of the package: that of the autoglm.h which it was written for."""

__version__ = "0.1.0"
