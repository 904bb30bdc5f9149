"""`emu3 doctor`: what a machine and its device compute, compared with what they should."""
