"""Files that a person writes: fleets and models, in JSON or in YAML of the same shape."""
