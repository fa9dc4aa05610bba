"""Pages of the documentation site that are made from other files of the checkout; a hook of MkDocs (mkdocs.yml).

README.md is the first page, CHANGELOG.md, CONTRIBUTING.md and benchmarks/RESULTS.md are pages of their own, and each
package of gnt with public names gets a page of reference, made from its docstrings.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "results.md",
}
PICTURES = "benchmarks/results"
PACKAGES = (
    "units",
    "importance",
    "replacement",
    "optim",
    "learners",
    "regularization",
    "replay",
    "protection",
    "nn",
    "metrics",
    "diagnosis",
    "initialization",
    "integrations.avalanche",
    "integrations.huggingface",
    "integrations.lightning",
    "integrations.loss_of_plasticity",
    "integrations.stable_baselines3",
    "integrations.torchrl",
)
FUNCTIONS = ("show_config",)  # public names of gnt that no package has
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """Add the pages of reference to the navigation."""
    for entry in config["nav"]:
        if "Reference" in entry:
            entry["Reference"] = [{f"gnt.{name}": f"reference/{name}.md"} for name in (*PACKAGES, *FUNCTIONS)]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_with_links_of_site(text, source)))
    for picture in sorted((ROOT / PICTURES).glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", content=picture.read_bytes()))
    for name in PACKAGES:
        files.append(File.generated(config, f"reference/{name}.md", content=_reference(name)))
    for name in FUNCTIONS:
        text = f"# gnt.{name}\n\n::: gnt.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links of docs/ that lead out of it lead to the pages made here."""
    return markdown if "/" in page.file.src_uri else _with_links_of_site(markdown, f"docs/{page.file.src_uri}")


def on_page_content(html: str, **_: Any) -> str:
    """Show the double colon before a code block of a docstring as one."""
    return html.replace("::</p>", ":</p>")


def _with_links_of_site(text: str, source: str) -> str:
    """The text with its relative links as they are on the site."""
    folder = posixpath.dirname(source)

    def replace(match: re.Match[str]) -> str:
        start, target, rest = match.groups()
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES:
            return f"{start}{PAGES[path]}{rest}"
        for prefix in ("docs/", "benchmarks/"):
            if path.startswith(prefix):
                return f"{start}{path.removeprefix(prefix)}{rest}"
        return match[0]

    return _LINK.sub(replace, text)


def _reference(name: str) -> str:
    """The page of a package: its public names, in the order of ``__all__``."""
    init = ROOT / "gnt" / Path(*name.split(".")) / "__init__.py"
    tree = ast.parse(init.read_text(encoding="utf-8"))
    names = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    title = (ast.get_docstring(tree) or "").splitlines()[0]
    return "\n\n".join([f"# gnt.{name}", title, *(f"::: gnt.{name}.{each}" for each in names)]) + "\n"
