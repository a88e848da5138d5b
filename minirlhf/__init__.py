"""minirlhf: how InstructGPT was made, small enough to read and run."""

__version__ = "0.1.0"
