"""Parsing and checking of settings that are typed as KEY=VALUE."""

import json

from backbench import suggest


def parsed(settings: tuple[str, ...], known, changes: dict) -> tuple[dict, list[str]]:
    """Return ``changes`` and the ``KEY=VALUE`` settings as one dict, and a list of faults in the latter."""
    changes, faults = dict(changes), []
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in known or not text:
            faults.append(f"--set {setting}: KEY=VALUE was expected.{suggest(key, known)} Known: {', '.join(known)}.")
        else:
            changes[key] = value(text)
    return changes, faults


def value(text: str):
    """Return a typed value as parsed JSON, or as text where it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def fault(key: str, kind, value, limits: tuple[float, float]) -> str | None:
    """Return why ``value`` is not a number of type ``kind`` within ``limits``, or None where it is."""
    low, high = limits
    whole = "a whole number" if kind is int else "a number"
    if not _is_number(value) or (kind is int and value != int(value)) or not low <= value <= high:
        return f"{key}={value}: {whole} within {low} and {high} was expected."
    return None


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
