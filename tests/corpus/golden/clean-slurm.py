"""Cleans the corpus of mine with datatrove on Slurm. Every pass waits for the one before:

  filter            40 tasks  Documents > LengthFilter > JsonlWriter
  write             40 tasks  Filtered > JsonlWriter

The blocks, their settings and the files stand in .clean/cleaning.json. Started again, this does
what is not complete; then `easyllm corpus` goes on with the documents that are left.
"""

from pathlib import Path

from datatrove.executor.slurm import SlurmPipelineExecutor

from easyllm.corpus.clean.cleaning import logs_of, read_cleaning
from easyllm.corpus.clean.passes import passes

cleaning = read_cleaning(Path(__file__).absolute().parent / ".clean")
last = None
for step in passes(cleaning):
    last = SlurmPipelineExecutor(
        pipeline=step.blocks,
        tasks=step.tasks,
        logging_dir=str(logs_of(cleaning, step.name)),
        depends=last,
        job_name="easyllm-mine-" + step.name,
        partition="cpu",
        time="4:00:00",
        qos=None,
        sbatch_args={"account": "lab", "exclude": "node7", "exclusive": ""},
        env_command="module load gcc\nexport PATH=/opt/easyllm/bin:$PATH",
    )
last.run()  # submits those before it first
