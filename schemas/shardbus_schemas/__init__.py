"""The language of the bus: ids, device state, model profiles, events, commands, subjects. Pydantic only, no I/O."""
