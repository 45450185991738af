"""deploy/gunicorn.conf.py with a scripted engine in place of the model's: `gunicorn --config python:…` reads this."""

import runpy
from functools import partial

from serving import workers
from study.common.launcher import ROOT
from study.common.scripted_workers import NAME

workers.engine_running = partial(workers.engine_running, engine=("-m", NAME, "engine"))
globals().update(runpy.run_path(str(ROOT / "deploy/gunicorn.conf.py")))
