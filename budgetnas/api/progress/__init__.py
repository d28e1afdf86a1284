"""Live progress of long calls, for the command line and for Python."""
