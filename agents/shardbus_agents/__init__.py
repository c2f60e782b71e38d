"""One process per node: device backends, collector, change detection, link probes."""
