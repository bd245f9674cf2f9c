"""Masks the secrets in configs, command lines and code before they are written."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
_SECRET = r"secret|passw(?:or)?d|credential|api_?-?key|access_?-?key|private_?-?key"
# Only tokens that grant access: not tokenizer, num_tokens, eos_token, eos_token_id, token_type.
_TOKEN = r"(?<!pad_)(?<!bos_)(?<!eos_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)(?<!special_)token(?!s|iz|_id|_type)"
_KEY = re.compile(rf"{_SECRET}|{_TOKEN}", re.IGNORECASE)
_HARMLESS = re.compile(r"(?:|null|none|true|false|[-+]?[\d.]+(?:e[-+]?\d+)?)", re.IGNORECASE)
_PAIR = re.compile(
    rf"""([\w.\-]*(?:{_SECRET}|{_TOKEN})[\w\-]*["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,"'{{}}\[\]]+)""", re.IGNORECASE
)
_LONG = re.compile(r"""["'][^"'\s]{8,}["']|[\w\-.]{16,}""")
_URL = re.compile(r"(://[^/@:\s]*:)[^/@\s]+@")


def mask(node: Any) -> Any:
    """A copy of a config with secrets masked: the values of keys such as hub_token, api_key or password."""
    if isinstance(node, dict):
        return {key: MASK if _is_secret(str(key), value) else mask(value) for key, value in node.items()}
    if isinstance(node, list):
        return [mask(item) for item in node]
    return _URL.sub(rf"\1{MASK}@", node) if isinstance(node, str) else node


def mask_overrides(arguments: list[str]) -> list[str]:
    """Overrides, or a whole command line, with secrets masked: `hub.hub_token=abc` becomes `hub.hub_token=***`."""
    masked = []
    for position, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        before = arguments[position - 1] if position else ""
        if equals and _is_secret(key, value):
            masked.append(f"{key}={MASK}")
        elif before.startswith("--") and "=" not in before and _is_secret(before, argument):
            masked.append(MASK)
        else:
            masked.append(mask_text(argument))
    return masked


def mask_text(text: str) -> str:
    """A line or a printed config with secrets masked: `hub_token: abc`, `model.api_key=abc`, URLs' passwords."""
    return _URL.sub(rf"\1{MASK}@", _PAIR.sub(_mask_pair, text))


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value grants access: `hub.hub_token`, `model.api_key`."""
    return _KEY.search(key.rpartition(".")[2]) is not None


def _is_secret(key: str, value: Any) -> bool:
    if value is None or isinstance(value, bool) or (isinstance(value, str | list | dict) and not value):
        return False
    if re.search(_SECRET, key, re.IGNORECASE):
        return True
    return bool(_KEY.search(key)) and not _HARMLESS.fullmatch(str(value))


def _mask_pair(match: re.Match[str]) -> str:
    value = match[2].strip("'\"")
    empty = value in ("", "null", "None", "true", "false", "...", "VALUE", MASK)
    return match[1] + MASK if not empty and _is_secret(match[1], value) else match[0]


def _mask_code(match: re.Match[str]) -> str:
    """In code, mask only a value that looks like a key itself: `token = next(tokens)` stays."""
    return match[1] + MASK if _LONG.fullmatch(match[2]) else match[0]


def mask_code(text: str) -> str:
    """Source code with everything masked that looks like a key."""
    return _URL.sub(rf"\1{MASK}@", _PAIR.sub(_mask_code, text))
