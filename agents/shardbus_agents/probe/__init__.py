"""Measuring the paths between nodes: what they carry, how long they take, and seldom enough not to be felt."""
