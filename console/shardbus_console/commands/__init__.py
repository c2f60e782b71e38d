"""The commands: each parses, calls, prints. What a command needs it imports when it runs, so that help is quick."""
