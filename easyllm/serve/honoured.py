"""What an engine cannot do is refused by the name under which it was asked for."""

from easyllm.serve.contract import Abilities, Engine, Sampling
from easyllm.serve.refusals import invalid

PENALTIES = (
    "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias",
)  # fmt: skip
NEUTRAL = Sampling()


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
