"""Names that canned answers are full of, and the time in them."""

from __future__ import annotations

import time

MARKUP = "<img src=x onerror=window.broken=1><script>window.broken=1</script>"
"""A name that must stay text."""

TURNED = "gpj.\u202eexe\n\x1b[31m"
"""A name that turns its end around, breaks the line and colours a terminal."""

ARABIC = "\u0646\u0645\u0648\u0630\u062c.pt"
"""A name that is written from right to left."""

LONG = "x" * 250

NOW = time.time()
