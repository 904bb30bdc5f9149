"""Everything that both stages must agree on; works without MindSpore."""

import os

# MindSpore reads its log level once, on its first import. Log errors only, unless the user chose another level.
os.environ.setdefault("GLOG_v", "3")
