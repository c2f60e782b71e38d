"""Snapshots of the fold: what saves whoever starts from folding the streams from their beginning."""
