"""Tries the network as a training would use it: a small job of its own, one rank on each node, measured and removed.

It goes through the launcher, so the interface and the meeting point are those of a real launch. Nothing of it is
written into the state directory, and nothing stays on the nodes.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from ugro.common.config import Inventory, JobSpec
from ugro.common.errors import EXIT_JOB_FAILED, NodeError, NodeRefused, UgroError
from ugro.common.models import CodeVersion, Job, NodeShare, Placement, RankState, Record
from ugro.common.text import printable
from ugro.control_plane import reconcile
from ugro.control_plane.evidence import node_log, rank_log
from ugro.control_plane.launcher import Launcher, run_paths
from ugro.control_plane.reconcile import Assessment, Phase
from ugro.nodes import log_streamer, process_manager
from ugro.nodes.pool import Pool
from ugro.nodes.process_manager import RunFiles
from ugro.nodes.scripts import load
from ugro.nodes.transport import Transport

LIMIT = 60.0
"""Seconds until a check that has no result is given up."""

JOIN_SECONDS = 30
"""How long ranks wait for each other, and later for each answer."""

LOOK_SECONDS = 0.5
CLEAR_SECONDS = 30.0
STOP_GRACE = 2.0
LAST_WORDS = 5
SCRIPT = "network.py"

_FACT = re.compile(r"^UGRO-NETWORK (\{.*\})\s*$", re.MULTILINE)

PLACE = """
umask 077
case $1 in "~/"*) set -- "$HOME/${1#"~/"}" "$2" ;; esac
mkdir -p "$1/code" || exit 73
# What a check left whose master died: its ranks ended themselves long ago.
find "${1%/*}" -maxdepth 1 -name 'check-*' -mmin +60 -exec rm -rf {} +
cat > "$1/code/.$2.$$" && mv "$1/code/.$2.$$" "$1/code/$2"
"""
"""usage: JOB_DIR SCRIPT. Nodes that share a home write the same file, each whole."""

REMOVE = """
case $1 in "~/"*) set -- "$HOME/${1#"~/"}" ;; esac
# Of nodes that share a home one gets to move it, and the others find nothing.
if mv "$1" "$1.gone-$$" 2>/dev/null; then rm -rf "$1.gone-$$"; fi
rmdir "${1%/*}" "${1%/*/*}" 2>/dev/null
[ ! -e "$1" ]
"""
"""usage: JOB_DIR. The folders above it go only if nothing else is in them."""
