"""Real NATS and Postgres servers as child processes, for the first run, for one machine, and for tests."""
