"""The `rsd-fast` command: one file a command, each options -> config -> one call."""
