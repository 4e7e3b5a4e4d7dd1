"""What docs/metrics.md explains."""

import re
from collections.abc import Iterable

from tests.shared import ROOT


def explained() -> list[re.Pattern]:
    """The glossary's keys as patterns; a word in capitals stands for any name."""
    text = (ROOT / "docs/metrics.md").read_text()
    keys = re.findall(r"^\| `([^`]+)` \| \S", text, re.MULTILINE)
    return [re.compile(re.sub(r"[A-Z]{3,}", r"[^|]+", key)) for key in keys]


def unexplained(keys: Iterable[str]) -> set[str]:
    """Those of the keys that the glossary lacks; called wherever tests see metrics."""
    patterns = explained()
    return {k for k in set(keys) if not any(p.fullmatch(k) for p in patterns)}
