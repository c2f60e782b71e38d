"""The read model's tables, revision by revision; ``migrate.upgrade`` applies them."""
