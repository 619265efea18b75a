"""What a program asks of an engine that the engine does not have: collected over all steps, one line a parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bnhw.hardware.arch import Arch

REMEDIES: Mapping[str, str] = {
    "weight_bits": "raise it, or compile with fewer --weight-bits",
    "csd_digits": "raise it, compile with --requantise csd:N for so many digits, or choose post = 'multiply'",
    "multiplier_bits": "raise it, or compile with --requantise multiply:M for fewer bits",
    "comparators": "set it to 1 or more (more levels then take several cycles), or compile with --requantise csd:2",
    "lookups": "set it to 1 or more; it divides pe",
    "product_bits": "raise it: the network multiplies two computed tensors",
    "acc_bits": "raise it",
    "residual_bits": "raise it",
    "offset_bits": "raise it",
    "shift_bits": "raise it",
    "class_bits": "raise it",
}
"""What to do where a parameter is too small."""

SHOWN = 3
"""So many steps are named in one line."""


@dataclass(kw_only=True)
class Needs:
    """Grows as steps are looked at; `problems` at the end."""

    arch: Arch
    least: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    refused: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def at_least(self, parameter: str, needed: int, where: str) -> None:
        """A step needs a parameter to be so large."""
        if needed > getattr(self.arch, parameter):
            most, places = self.least.get(parameter, (0, []))
            self.least[parameter] = max(most, needed), [*places, where]

    def refuse(self, found: str, remedy: str, where: str) -> None:
        """A step cannot run, for a reason that no larger number changes."""
        self.refused.setdefault((found, remedy), []).append(where)

    @property
    def problems(self) -> list[str]:
        """One line a parameter or reason, with the steps."""
        lines = [
            f"{name} = {getattr(self.arch, name)}, {needed} needed by {_named(places)}; {REMEDIES[name]}"
            for name, (needed, places) in self.least.items()
        ]
        return lines + [f"{found} in {_named(places)}; {remedy}" for (found, remedy), places in self.refused.items()]


def _named(places: list[str]) -> str:
    distinct = list(dict.fromkeys(places))
    rest = len(distinct) - SHOWN
    return ", ".join(distinct[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
