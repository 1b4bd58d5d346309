"""Services of the operating system: child processes, memory, file locks, output files, installation.

Modules: installation (commands that complete it), interpreter (command lines of child interpreters), memory
(free memory and its limits), locks (of files), outputs (checks of output files and atomic writes).
"""
