"""The machine and the process: devices, precision, launchers and ranks, logging, the run folder."""
