"""The machine below the library: processes, memory, locks, files."""
