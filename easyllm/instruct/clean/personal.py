"""Personal data: addresses, telephone, identity, bank and card numbers, by their form and their check digits."""

import ipaddress
from collections.abc import Callable, Iterator
from datetime import date

import regex

from easyllm.instruct.row import Finding, Row

_EXAMPLE = regex.compile(
    r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost)(?:\.(?:com|org|net|cn))?$", regex.IGNORECASE
)


def _email(text: str) -> bool:
    return not _EXAMPLE.search(text)


def _mainland_id(text: str) -> bool:
    """The birthday is one, and the last of 18 characters fits the others (GB 11643)."""
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    left = sum(int(digit) * weight for digit, weight in zip(text, weights, strict=False)) % 11
    return born.year >= 1900 and "10X98765432"[left] == text[17].upper()


def _card(text: str) -> bool:
    """Luhn's sum (ISO/IEC 7812) over 13 to 19 digits; one digit over and over is none."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [sum(divmod(digit * 2, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    """The remainder by 97 is 1 (ISO 13616)."""
    plain = text.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _address(text: str) -> bool:
    """An address that stands for one machine on the internet; not those kept for examples and private networks."""
    try:
        return ipaddress.IPv4Address(text).is_global and not text.endswith((".0.0", ".0.0.0"))
    except ValueError:
        return False


def _telephone(text: str) -> bool:
    """8 to 15 digits (ITU-T E.164); 555-01xx stands in films."""
    digits = "".join(character for character in text if character.isdigit())
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2 and digits[-7:-2] != "55501"


_FORMS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "e-mail": (r"(?<![\w.+-])[\w.+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b", _email),
    "identity number": (r"(?<![\dA-Za-z])[1-9]\d{16}[\dXx](?![\dA-Za-z])", _mainland_id),
    "social security number": (r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])", lambda _: True),
    "card number": (
        (
            r"(?<![\d.-])[2-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![\d.-]?\d)"
            r"|(?<![\d.-])3[47]\d{2}[ -]?\d{6}[ -]?\d{5}(?!\d)"
        ),
        _card,
    ),
    "account number": (r"(?<![\dA-Za-z])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![\dA-Za-z])", _iban),
    "telephone number": (
        (r"(?<![\d.-])(?:\+?86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?![\d-])"
        r"|(?<![\d.-])0(?:10|2\d|[3-9]\d{2})-[2-9]\d{6,7}(?![\d-])"
        r"|(?<![\w.])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}(?![\d-])"
        r"|(?<![\d.-])(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-.])[2-9]\d{2}[-.]\d{4}(?![\d-])"),
        _telephone,
    ),
    "IP address": (r"(?<![\d.])(?<!\b(?:v|version|版本)\s{0,2})\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)", _address),
}  # fmt: skip
_PATTERNS = {kind: (regex.compile(pattern, regex.ASCII), holds) for kind, (pattern, holds) in _FORMS.items()}


def personal_data(row: Row, drops: bool) -> list[Finding]:
    """personal_data with the kinds and what was found, where anything was."""
    found = list(dict.fromkeys(_found(f"{row.instruction}\n{row.input}\n{row.output}")))
    if not found:
        return []
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    return [Finding("personal_data", drops, {"kinds": kinds, "found": [text for _, text in found]})]


def _found(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text); what was taken for one kind is taken for no other."""
    for kind, (pattern, holds) in _PATTERNS.items():
        for match in pattern.finditer(text):
            if holds(match[0]):
                yield kind, match[0]
                text = text.replace(match[0], " " * len(match[0]))
