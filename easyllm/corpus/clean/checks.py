"""What must hold before documents are cleaned, and after. No torch."""

import difflib
from collections.abc import Sequence

from easyllm.core.errors import Problem, UserError, problem
from easyllm.corpus.clean.config import BLOCKS, CleanConfig, Length
from easyllm.corpus.clean.dropped import Cleaned
from easyllm.corpus.sources import Source

KEY = "corpus.clean"


def check_clean(config: CleanConfig | None) -> list[Problem]:
    """Everything wrong with the section."""
    if config is None:
        return []
    if not config.blocks:
        return [problem("CORPUS-030", stage="corpus", key=KEY, blocks=", ".join(BLOCKS))]
    return [*_length(config.length), *_languages(config)]


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
    from easyllm.corpus.clean.filters import known_languages

    known = known_languages()
    return [
        problem(
            "CORPUS-032", stage="corpus", key=f"{KEY}.language.keep", asked=code, known=", ".join(known),
            nearest=(difflib.get_close_matches(code.lower()[:2], known, n=1, cutoff=0.0) or ["en"])[0],
        )
        for code in config.language.keep
        if code not in known
    ]  # fmt: skip


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
