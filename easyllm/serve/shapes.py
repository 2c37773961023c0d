"""How answers are described to the API's document."""

from pydantic import ConfigDict, with_config

closed = with_config(ConfigDict(extra="forbid"))
"""Nothing else stands in such an answer."""
