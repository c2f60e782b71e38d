"""The fold (pure), the projector, the Postgres read model."""
