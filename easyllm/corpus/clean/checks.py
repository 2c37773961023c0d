"""What must hold before documents are cleaned, and after. No torch."""

import difflib
from collections.abc import Sequence

from easyllm.core import cluster as clusters
from easyllm.core.cluster import ClusterConfig, Slurm
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.stage import Job
from easyllm.corpus.clean.config import BLOCKS, CleanConfig, Length
from easyllm.corpus.clean.dropped import Cleaned
from easyllm.corpus.clean.elsewhere import elsewhere
from easyllm.corpus.config import CorpusConfig
from easyllm.corpus.sources import Source

KEY = "corpus.clean"


def check_clean(job: Job[CorpusConfig]) -> list[Problem]:
    """Everything wrong with the section, and with the cluster where the blocks run on one."""
    config = job.config.clean
    if config is None:
        return []
    if not config.blocks:
        return [problem("CORPUS-030", stage="corpus", key=KEY, blocks=", ".join(BLOCKS))]
    return [*_length(config.length), *_languages(config), *(_cluster(job.cluster) if elsewhere(job) else [])]


def _length(limits: Length | None) -> list[Problem]:
    pairs = [("characters", limits.min_characters, limits.max_characters),
             ("words", limits.min_words, limits.max_words)] if limits else []  # fmt: skip
    return [
        problem("CORPUS-031", stage="corpus", key=f"{KEY}.length.max_{unit}", least=least, most=most, unit=unit)
        for unit, least, most in pairs
        if most is not None and least > most
    ]


def _languages(config: CleanConfig) -> list[Problem]:
    if not config.language:
        return []
    from easyllm.core.languages import known_languages

    known = known_languages()
    return [
        problem(
            "CORPUS-032", stage="corpus", key=f"{KEY}.language.keep", asked=code, known=", ".join(known),
            nearest=(difflib.get_close_matches(code.lower()[:2], known, n=1, cutoff=0.0) or ["en"])[0],
        )
        for code in config.language.keep
        if code not in known
    ]  # fmt: skip


def _cluster(cluster: ClusterConfig | None) -> list[Problem]:
    """datatrove's Slurm executor wants partition and time, and knows the long options of sbatch only."""
    found = clusters.check(cluster, "corpus")
    if cluster is None or cluster.launcher != "slurm":
        return found
    asked = cluster.slurm or Slurm()
    missing = [f"cluster.slurm.{key}" for key in ("partition", "time") if getattr(asked, key) is None]
    if missing:
        found.append(problem("CORPUS-034", stage="corpus", key="cluster.launcher", missing=", ".join(missing)))
    short = [option for option in asked.options if not option.startswith("--")]
    if short:
        found.append(problem("CORPUS-035", stage="corpus", key="cluster.slurm.options", options=", ".join(short)))
    return found


def require_documents(sources: Sequence[Source], cleaned: Cleaned) -> None:
    """CORPUS-033 for each source of which the blocks left nothing, with the block that dropped the most of it."""
    problems = []
    for number, source in enumerate(sources):
        if cleaned.read[number] and not cleaned.kept(number):
            most = max(cleaned.blocks, key=lambda block: block.sources[number])
            reasons = ", ".join(f"{reason or '-'} {count:,}" for reason, count in most.reasons.most_common(3))
            problems.append(
                problem("CORPUS-033", stage="corpus", key=f"{KEY}.{most.block}", name=source.name or "-",
                        read=cleaned.read[number], block=most.block, dropped=most.sources[number], reasons=reasons)
            )  # fmt: skip
    if problems:
        raise UserError(*problems)
