"""What the command line calls, and Python programs call alike: one function a command."""
