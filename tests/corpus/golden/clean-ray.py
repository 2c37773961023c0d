"""Cleans the corpus of mine with datatrove on Ray. Every pass waits for the one before:

  filter            40 tasks  Documents > LengthFilter > JsonlWriter
  write             40 tasks  Filtered > JsonlWriter

The blocks, their settings and the files stand in .clean/cleaning.json. Started again, this does
what is not complete; then `easyllm corpus` goes on with the documents that are left.
"""

from pathlib import Path

import ray
from datatrove.executor.ray import RayPipelineExecutor

from easyllm.corpus.clean.cleaning import logs_of, read_cleaning
from easyllm.corpus.clean.passes import passes

cleaning = read_cleaning(Path(__file__).absolute().parent / ".clean")
last = None
for step in passes(cleaning):
    last = RayPipelineExecutor(
        pipeline=step.blocks,
        tasks=step.tasks,
        logging_dir=str(logs_of(cleaning, step.name)),
        depends=last,
    )
ray.init(address="ray://head:10001")
last.run()  # runs those before it first
