"""What every process stands on: the bus, its streams, embedded servers, settings, observability."""
