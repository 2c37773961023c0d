"""The review in the terminal: row after row, one key a decision, each on the disk before the next row is shown."""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from easyllm.core.messages import say, term
from easyllm.core.printable import printable
from easyllm.instruct.review.card import card
from easyllm.instruct.review.decisions import CONFLICT, UNDECIDED, Standing
from easyllm.instruct.review.desk import Desk, TooEarly, Unknown
from easyllm.instruct.review.edit import NotEdited, edited
from easyllm.instruct.review.folder import Folder
from easyllm.instruct.review.keys import END, Keys, Lines, Terminal
from easyllm.instruct.review.log import TEXTS, Decision
from easyllm.instruct.review.reasons import REASONS
from easyllm.instruct.review.sift import Wanted
from easyllm.instruct.review.wanted import WrongFilter, wanted_of


def in_terminal(folder: Folder, author: str, error_rate: float | None, confidence: float) -> None:
    """Let ``author`` review until he quits; says where the rows stand then."""
    from easyllm.instruct.review.decisions import gate
    from easyllm.instruct.review.verb import stands

    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    plan = (error_rate, confidence) if error_rate else None
    Review(Desk(folder, author), Terminal() if on_terminal else Lines(), plan).run()
    print(stands(gate(folder.rows(), folder.log.read())))


class Review:
    """One reviewer's way through the rows. ``plan``: (error rate, confidence) where a sample is asked for."""

    def __init__(self, desk: Desk, keys: Keys, plan: tuple[float, float] | None) -> None:
        self._desk, self._keys, self._plan = desk, keys, plan
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._wanted: Wanted | None = None
        self._at = -1
        """Number of the row shown; the number of rows where the list has come to its end."""
        self._one: Standing | None = None
        """The row as it is on the screen: a key means that one, whatever others write meanwhile."""
        self._acts: dict[str, Callable[[Standing], None]] = {
            "a": self._accept, "e": self._edit, "r": self._reject, "o": self._follow,
        }  # fmt: skip
        self._moves: dict[str, Callable[[], None]] = {
            "u": self._undo, "s": self._next, "j": self._next, "k": self._previous, "f": self._filter,
            "l": self._lot, "?": lambda: self._tell(say("tui_help")),
        }  # fmt: skip

    def run(self) -> None:
        self._next()
        while (key := self._keys.key()) != END:
            try:
                self._obey(key)
            except EOFError:  # Ctrl-D at a question
                self._tell(say("tui_left"))
            except Unknown:
                self._tell(say("tui_rows_new"))
                self._at = -1
                self._next()

    def _obey(self, key: str) -> None:
        if key in self._moves:
            self._moves[key]()
        elif key in self._acts and self._one:
            self._acts[key](self._one)
        elif key in self._acts:
            self._tell(say("tui_end"))
        elif key.strip():
            self._tell(say("tui_unknown_key", key=printable(key)))

    def _order(self) -> list[int]:
        """Numbers of the rows in the order to look at them; a sample's as it was drawn, for its bound to hold."""
        if self._wanted:
            return self._wanted.numbers(self._desk.found, self._desk.author)
        if self._plan:
            return self._desk.numbers_of(self._desk.plan(*self._plan).sample)
        return list(range(len(self._desk.found)))

    def _waits(self, number: int) -> bool:
        """Whether the row is to be looked at: as filtered, else where it is open."""
        return bool(self._wanted) or self._desk.found[number].state in (UNDECIDED, CONFLICT)

    def _show(self) -> None:
        console, progress = self._console, self._progress()
        found = self._desk.found
        self._one = found[self._at] if 0 <= self._at < len(found) else None
        if console.is_terminal:
            console.clear()
        console.print(progress, style="dim")
        if self._one:
            console.print(card(self._one, self._at, len(found)))
        console.rule(style="dim")
        console.print(say("tui_keys" if self._one else "tui_end"), style="dim")

    def _progress(self) -> str:
        states = Counter(one.state for one in self._desk.found)
        done = sum(states.values()) - states[UNDECIDED] - states[CONFLICT]
        counts = {state: states[state] for state in ("accepted", "rejected", "conflict")}
        text = say("tui_progress", done=done, rows=len(self._desk.found), **counts)
        if not self._plan:
            return text
        plan = self._desk.plan(*self._plan)
        sample = say("tui_sample", decided=plan.decided, needed=plan.needed, defects=plan.defects, bound=plan.bound)
        offer = "\n" + say("tui_lot_offer", count=states[UNDECIDED]) if plan.acceptable and states[UNDECIDED] else ""
        return f"{text}\n{sample}{offer}"

    def _tell(self, text: str) -> None:
        self._console.print(Text(text, "bold"))

    def _next(self) -> None:
        """The next row of the list; the end comes after its last, and leads to its first."""
        self._desk.refresh()
        order = self._order()
        begin = order.index(self._at) + 1 if self._at in order else 0
        self._go(next((number for number in order[begin:] if self._waits(number)), len(self._desk.found)))

    def _previous(self) -> None:
        order = self._order()
        at = order.index(self._at) if self._at in order else len(order)
        self._go(order[at - 1] if at else self._at)

    def _go(self, number: int) -> None:
        self._at = number
        self._show()

    def _decide(self, decision: Decision) -> None:
        self._desk.decide(decision)
        self._next()

    def _accept(self, one: Standing) -> None:
        self._decide(Decision(one.source.id, self._desk.author, "accept"))

    def _edit(self, one: Standing) -> None:
        try:
            words = edited(one.row, self._keys)
        except NotEdited as why:
            self._tell(str(why))
            return
        if words == {name: getattr(one.source, name) for name in TEXTS}:
            self._accept(one)
        else:
            self._decide(Decision(one.source.id, self._desk.author, "edit", words))

    def _reject(self, one: Standing) -> None:
        choices = " · ".join(f"{key} {term(name)}" for key, name in enumerate(REASONS, 1))
        note = self._keys.line(say("tui_why", choices=choices)).strip()
        if note in map(str, range(1, len(REASONS) + 1)):
            note = REASONS[int(note) - 1]
        self._decide(Decision(one.source.id, self._desk.author, "reject", note=note))

    def _follow(self, one: Standing) -> None:
        """Decide as the one did who differs from this author, the latest of them."""
        mine = one.by.get(self._desk.author)
        others = [d for d in one.by.values() if d.author != self._desk.author] if one.state == CONFLICT else []
        differing = [d for d in others if not mine or (d.verdict, d.edited) != (mine.verdict, mine.edited)]
        if not differing:
            self._tell(say("tui_no_conflict"))
            return
        latest = max(differing, key=lambda decision: decision.time)
        self._decide(replace(latest, author=self._desk.author))

    def _undo(self) -> None:
        number = self._desk.take_back()
        if number is None:
            self._tell(say("tui_nothing_back"))
        else:
            self._go(number)

    def _lot(self) -> None:
        """Accept the rest by the sample; where this author did, take it back."""
        taken = next((one.lot for one in self._desk.found if one.lot), None)
        if taken and taken.author == self._desk.author:
            self._desk.undo_lot()
            self._tell(say("tui_lot_back"))
            return
        if not self._plan:
            self._tell(say("tui_no_sample"))
            return
        try:
            self._desk.accept_lot(*self._plan)
        except TooEarly:
            self._tell(say("tui_lot_early", left=len(self._desk.plan(*self._plan).left)))
            return
        self._tell(say("tui_lot_taken", count=sum(bool(one.lot) for one in self._desk.found)))

    def _filter(self) -> None:
        try:
            self._wanted = wanted_of(self._keys.line(say("tui_filter")))
        except WrongFilter as why:
            self._tell(str(why))
            return
        self._at = len(self._desk.found)
        if self._wanted and not self._order():
            self._wanted = None
            self._tell(say("tui_filter_none"))
        self._next()
