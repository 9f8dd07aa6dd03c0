"""Bring the JavaScript that the dashboard stands on into the tree: `python scripts/vendor_js.py` (needs npm).

Each package is fetched at one version and must have the digest written below. Its files go to
`ugro/dashboard/static/vendor/` as they are, but for the names of imports: a browser takes no bare ones, and an inline
import map would need a hole in the Content-Security-Policy. `vendor.json` has what is there, and a test compares it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "ugro/dashboard/static/vendor"
TESTS = ROOT / "tests/browser/vendor"


class Package(NamedTuple):
    """An npm package: its version, the registry's digest of it, and which of its files go where."""

    name: str
    version: str
    sha512: str
    licence: str
    files: dict[str, str]
    folder: Path = PAGE


PACKAGES = (
    Package(
        "preact",
        "11.2.0",
        "/HfHI/7N84e6GrWBJ3J280z3mLaRJiDcSvj/A+y/4AbLnND/1UlGHe1sR6oYuTGwId0nP7dqDU9OnLxMPZ7xBg==",
        "MIT",
        {"dist/preact.mjs": "preact.js", "hooks/dist/hooks.mjs": "hooks.js", "LICENSE": "preact.LICENSE"},
    ),
    Package(
        "htm",
        "3.1.1",
        "983Vyg8NwUE7JkZ6NmOqpCZ+sh1bKv2iYTlUkzlWmA5JD2acKoxd4KVxbMmxX/85mtfdnDmTFoNKcg5DGAvxNQ==",
        "Apache-2.0",
        {"dist/htm.mjs": "htm.js", "LICENSE": "htm.LICENSE"},
    ),
    Package(
        "@preact/signals",
        "2.11.4",
        "Rb+5RPo9gWSaHtzJeauhHxiC8KP/IF2DEPkHPEOGOnuy2wnJzRqyeLRankUCYd6ADqtxS6GnWGv6Ie343d8aYw==",
        "MIT",
        {"dist/signals.mjs": "signals.js", "LICENSE": "signals.LICENSE"},
    ),
    Package(
        "@preact/signals-core",
        "1.14.5",
        "vcRv7Ityz5JVmeiVqIluLFzT/PDS/AlhHUpw3/aUWqcVUs6bDGIPXE/6RSC4evBNWYvnniozg5Syfj33al3gkg==",
        "MIT",
        {"dist/signals-core.mjs": "signals-core.js"},
    ),
    Package(
        "uplot",
        "1.6.32",
        "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        "MIT",
        {"dist/uPlot.iife.min.js": "uplot.js", "dist/uPlot.min.css": "uplot.css", "LICENSE": "uplot.LICENSE"},
    ),
    Package(
        "axe-core",
        "4.14.1",
        "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        "MPL-2.0",
        {"axe.min.js": "axe.min.js", "LICENSE": "axe.LICENSE"},
        TESTS,
    ),
)

IMPORTS = {
    "preact": "preact.js",
    "preact/hooks": "hooks.js",
    "@preact/signals-core": "signals-core.js",
}
"""Bare names that the files import, and the file that each means."""


def fetch(package: Package) -> bytes:
    """Return a package as the registry has it.

    Raises:
        SystemExit: it is not what it was.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", f"{package.name}@{package.version}", "--pack-destination", folder, "--silent"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        packed = next(Path(folder).glob("*.tgz")).read_bytes()
    found = base64.b64encode(hashlib.sha512(packed).digest()).decode()
    if found != package.sha512:
        sys.exit(f"{package.name} {package.version} has the digest {found}, not {package.sha512}")
    return packed


def adapted(name: str, content: bytes) -> bytes:
    """Return a file as the page loads it."""
    if name.endswith(".js"):
        for bare, file in IMPORTS.items():
            for quote in "\"'":
                content = content.replace(f"from{quote}{bare}{quote}".encode(), f'from"./{file}"'.encode())
        content = re.sub(rb"//# sourceMappingURL=\S*", b"", content)  # a browser's tools would ask for it
    if name == "uplot.js":
        content += b"\nexport default uPlot;"
    return content.rstrip() + b"\n"


def main() -> None:
    """Write all files again."""
    for folder in (PAGE, TESTS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    kept: dict[Path, list[dict[str, object]]] = {PAGE: [], TESTS: []}
    for package in PACKAGES:
        with tarfile.open(fileobj=io.BytesIO(fetch(package))) as packed:
            digests = {}
            for source, name in package.files.items():
                member = packed.extractfile(f"package/{source}")
                assert member, source
                content = adapted(name, member.read())
                (package.folder / name).write_bytes(content)
                digests[name] = hashlib.sha256(content).hexdigest()
        entry: dict[str, object] = {"name": package.name, "version": package.version, "licence": package.licence}
        kept[package.folder].append(entry | {"sha512": package.sha512, "files": digests})
    for folder, entries in kept.items():
        (folder / "vendor.json").write_text(json.dumps(entries, indent=2) + "\n")


if __name__ == "__main__":
    main()
