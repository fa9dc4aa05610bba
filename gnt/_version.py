"""The one place that holds gnt's version; the build reads it from here without importing gnt."""

__version__ = "0.2.0"
