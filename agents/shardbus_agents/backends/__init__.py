"""Where readings come from: one file per source, each behind ``protocol.Backend``."""
