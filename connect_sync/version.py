"""The version of this distribution, for what it says about itself on the wire."""

VERSION = "0.1.0"
"""The version in setup.cfg; not read from the distribution's metadata, which a vendored copy lacks."""
