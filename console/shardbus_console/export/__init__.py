"""From a plan to what a runtime needs to run exactly that plan: files as text, nothing is read or written here."""
