"""What must hold of ``instruct.clean`` before anything is asked."""

import difflib

from easyllm.core.errors import Problem, problem
from easyllm.core.stage import Job
from easyllm.instruct.config import Clean, InstructConfig


def clean_problems(job: Job[InstructConfig]) -> list[Problem]:
    """INSTRUCT-040: a language that py3langid does not tell; INSTRUCT-041: a length at which nothing can stay."""
    config, key = job.config.clean, f"{job.stage}.clean"
    return [*_languages(config, job.stage, key), *_lengths(config, job.stage, key)]


def _languages(config: Clean, stage: str, key: str) -> list[Problem]:
    if config.languages is None:
        return []
    from easyllm.core.languages import known_languages

    known = known_languages()
    return [
        problem(
            "INSTRUCT-040", stage=stage, key=f"{key}.languages", asked=code, known=", ".join(known),
            nearest=(difflib.get_close_matches(code.lower()[:2], known, n=1, cutoff=0.0) or ["en"])[0],
        )
        for code in config.languages
        if code not in known
    ]  # fmt: skip


def _lengths(config: Clean, stage: str, key: str) -> list[Problem]:
    limits = {"instruction_units": config.instruction_units, "output_units": config.output_units}
    return [
        problem("INSTRUCT-041", stage=stage, key=f"{key}.{name}", least=least, most=most)
        for name, (least, most) in limits.items()
        if not 0 <= least <= most or not most
    ]
