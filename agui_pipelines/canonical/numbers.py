"""Numbers of JSON, exactly: one spelling for each value, and what PostgreSQL's numeric cannot hold."""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Final

_CONVERTIBLE_DIGITS: Final = 1000
_MAX_INTEGER_DIGITS: Final = 131_072
_MAX_FRACTION_DIGITS: Final = 16_383
_MAX_EXPONENT: Final = 1_073_741_823
PLAIN_DIGITS: Final = 30
"""Numbers with up to this many digits on either side of the point are spelled out. What the fast path lets pass must be
among them: integers below 2**64 have 20 digits, and orjson spells out doubles from 1e-5, so with 22 fraction digits."""


def canonical_number(token: str) -> str:
    """Spell a JSON number so that equal decimal values, and only those, have equal spellings.

    Plain notation without trailing zeros up to 30 digits on either side of the point, otherwise ``<digits>e<exponent>``
    with an integer mantissa that does not end in zero. Zero, with any sign, is ``0``.
    """
    mantissa, _, power = token.lower().partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return "0"
    stripped = digits.rstrip("0")
    shift = len(digits) - len(stripped) - len(fraction)
    exponent = _exponent(power)
    if exponent is None:
        return f"{sign}{stripped}e{_sum(power, shift)}"
    exponent += shift
    if exponent >= 0 and len(stripped) + exponent <= PLAIN_DIGITS:
        return sign + stripped + "0" * exponent
    if -PLAIN_DIGITS <= exponent < 0 and len(stripped) + exponent <= PLAIN_DIGITS:
        padded = stripped.rjust(1 - exponent, "0")
        return f"{sign}{padded[:exponent]}.{padded[exponent:]}"
    return f"{sign}{stripped}e{exponent}"


def _exponent(power: str) -> int | None:
    """The exponent's value; None if it has more digits than Python turns into an integer, or in reasonable time."""
    if len(power) > _CONVERTIBLE_DIGITS:
        power = power[: 1 if power[0] in "+-" else 0] + power.lstrip("+-").lstrip("0")
    if len(power) > _CONVERTIBLE_DIGITS:
        return None
    return int(power or "0") if power not in ("+", "-") else 0


def _sum(power: str, shift: int) -> str:
    """The sum of an integer of any length and a small one; decimal does this in time that grows with the length only."""
    context = Context(prec=len(power) + 20, Emax=MAX_EMAX, Emin=MIN_EMIN)
    return format(context.add(Decimal(power), shift), "f")


def is_extreme(token: str) -> bool:
    """Whether PostgreSQL's numeric, and so jsonb, refuses the number.

    The digits are those of its documentation, section 8.1.2; the exponent's limit holds even for zero (measured on 18).
    """
    mantissa, _, power = token.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    exponent = _exponent(power)
    digits = (whole + fraction).lstrip("0")
    if exponent is None or abs(exponent) > _MAX_EXPONENT or len(fraction) - exponent > _MAX_FRACTION_DIGITS:
        return True
    return bool(digits) and len(digits) - len(fraction) + exponent > _MAX_INTEGER_DIGITS
