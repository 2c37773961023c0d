"""What an engine cannot do is refused by the name under which it was asked for."""

from easyllm.serve.contract import Abilities, Engine, Sampling
from easyllm.serve.refusals import invalid

PENALTIES = (
    "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias",
)  # fmt: skip
NEUTRAL = Sampling()
COLDEST = 1e-6
"""Below it the likeliest token wins by more than 32 bits can write down, and a division would overflow."""


def require_able(engine: Engine, sampling: Sampling, names: dict[str, str]) -> Sampling:
    """``sampling`` as it is. ``names`` has what a dialect calls a setting, where that is not the setting's own name."""
    for setting in wanting(engine.abilities):
        if getattr(sampling, setting) != getattr(NEUTRAL, setting):
            name = names.get(setting, setting)
            raise invalid(f"`{name}`: the engine behind this server does not support it", name)
    return sampling


def wanting(abilities: Abilities) -> list[str]:
    """Settings that must stay neutral."""
    return [
        *(PENALTIES if not abilities.penalties else ()),
        *(("likeliest",) if not abilities.likeliest else ()),
        *(("grammar",) if not abilities.grammar else ()),
    ]


def require_score(engine: Engine, name: str) -> None:
    if not engine.abilities.score:
        raise invalid(f"`{name}`: the engine behind this server does not score given tokens", name)


def warmth(temperature: float) -> float:
    """``temperature``, or 0, which says the same, where it is too small to divide by."""
    return temperature if temperature >= COLDEST else 0.0
