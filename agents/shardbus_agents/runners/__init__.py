"""What the runtimes of this node say of the shards that they run: heard locally, told on the bus."""
