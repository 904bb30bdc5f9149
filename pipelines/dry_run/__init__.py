"""The compiled graphs of all commands, and a dry run that compiles them for Ascend without a free card."""
