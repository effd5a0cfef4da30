"""How urgent an AI incident is. One function; the levels of the old prose runbook are its evidence.

It resolves what the sources left open. Absolute numbers never trip at low traffic, so shares count as well. Of the two
alert thresholds, 5 % (over 5 minutes) asks for a look: P2; 10 % (over 10 minutes) is worth a page: P1. Where two
levels meet, the worse one holds.
"""

from __future__ import annotations

LEVELS = {"P0": "CRITICAL", "P1": "HIGH", "P2": "MEDIUM", "P3": "LOW"}
FEWEST = 10  # requests: below that a share says nothing


def level(
    per_minute: float, failed: int, requests: int, down: int, providers: int, slow: bool, vanishing: int
) -> tuple[str, str]:
    """(P0 to P3, why). `down` of so many `providers` are down; `per_minute` errors in the worst five minutes.

    `vanishing`: finished results that nobody has fetched; the provider keeps them for about ten minutes.
    """
    share = failed / requests if requests >= FEWEST else 0.0
    pace, part = f"{per_minute:.3g} errors a minute", f"{share * 100:.0f} % of requests fail"
    vanish = f"{vanishing} finished and paid for, kept by the provider for about ten minutes: store the results at once"
    for name, rules in (
        ("P0", ((0 < providers <= down, "no provider serves us"), (per_minute > 50, pace), (share >= 0.5, part))),
        ("P1", ((vanishing > 0, vanish), (down > 0, "a provider does not serve us"), (per_minute >= 10, pace),
                (share >= 0.10, part))),
        ("P2", ((per_minute >= 5, pace), (share >= 0.05, part), (slow, "requests are slow"))),
    ):  # fmt: skip
        reasons = [why for holds, why in rules if holds]
        if reasons:
            return name, "; ".join(reasons)
    return "P3", "failures are fewer than any alert asks for"
