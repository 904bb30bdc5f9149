"""Everything that both stages must agree on; works without MindSpore."""

from shared.environment import prepare_environment

prepare_environment()  # before anything imports MindSpore
