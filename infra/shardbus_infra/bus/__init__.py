"""The bus: a port that every process programs against, its streams, and its adapters (NATS and memory)."""
