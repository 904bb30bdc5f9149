"""What both stages must agree on; works without MindSpore."""

import os

# MindSpore reads its log level once, when it is first imported: errors only, unless the user asked for more.
os.environ.setdefault("GLOG_v", "3")
