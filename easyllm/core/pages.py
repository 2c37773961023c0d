"""The web pages that ship with easyllm: their files, and the headers that keep a page to itself."""

from pathlib import Path

from starlette.staticfiles import StaticFiles

SHARED = Path(__file__).with_name("page")


def page_names(directory: Path) -> list[str]:
    """The names of all files that a page may ask for."""
    return sorted({file.name for folder in (directory, SHARED) for file in folder.iterdir() if file.is_file()})


def page_files(directory: Path) -> StaticFiles:
    """The files of a page, and those that all pages share: colours, dialogs, the language of the page."""
    return StaticFiles(directory=directory, packages=[("easyllm.core", "page")])


def sealing_headers(*connect: str) -> dict[str, str]:
    """Nothing but our own files runs, and nothing is sent anywhere but here and to the origins of ``connect``."""
    sources = " ".join(("'self'", *connect))
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src {sources}; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
        ),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
