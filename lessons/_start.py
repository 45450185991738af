"""What a lesson imports first: Ctrl-C ends it without a traceback, and the rooms of the service can be imported."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from serving import quiet_start
