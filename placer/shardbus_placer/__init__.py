"""The planner (pure: fleet and request in, plan or reasons out) and the command consumer."""
