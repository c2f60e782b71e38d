"""What a model weighs: computed from its architecture, read from its files, or looked up in the catalogue."""
