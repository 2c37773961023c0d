"""The recipes that ship: list them, find one by name, hand one over as files the user owns."""

import re
import shutil
from pathlib import Path

from easyllm.core.errors import refuse

HERE = Path(__file__).parent


def listing() -> list[dict[str, str]]:
    """[{"name", "about", "path"}], ``about`` being the recipe's first comment line."""
    rows = []
    for path in sorted(HERE.glob("*.yaml")):
        about = path.read_text("utf-8").splitlines()[0].removeprefix("#").strip()
        rows.append({"name": path.stem, "about": about, "path": str(path)})
    return rows


def find(recipe: str) -> Path:
    """The file of ``recipe``: a path as it is, or the name of one that ships."""
    path = Path(recipe)
    if path.exists() or path.suffix in (".yaml", ".yml"):
        return path
    shipped = HERE / f"{recipe}.yaml"
    return shipped if shipped.is_file() else path


def copy(name: str, directory: Path) -> Path:
    """Copy the recipe and the data files it names into ``directory``; nothing is overwritten (RECIPE-009)."""
    source = HERE / f"{name}.yaml"
    if not source.is_file():
        raise refuse("RECIPE-008", name=name, known=", ".join(row["name"] for row in listing()))
    wanted = [source.relative_to(HERE)]
    wanted += sorted({Path(match) for match in re.findall(r"\bdata/[\w.-]+", source.read_text("utf-8"))})
    for relative in wanted:
        if (directory / relative).exists():
            raise refuse("RECIPE-009", path=str(directory / relative))
    for relative in wanted:
        target = directory / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / relative, target)
    return directory / source.name
