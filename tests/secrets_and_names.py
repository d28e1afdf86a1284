"""A password in a storage's URL, where it may not be shown, and a name that is markup and a path."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import make_url

SECRET = "pa55/w@rd"
SECRETS = (SECRET, "pa55%2Fw%40rd", "pa55%2fw%40rd", "pa55/w%40rd")
NASTY = '../<script>alert("1")</script>\' <img src=x onerror=alert(2)>'


def in_user_part(database: str) -> str:
    return make_url(database).set(password=SECRET).render_as_string(hide_password=False)


def in_options(database: str) -> str:
    return make_url(database).update_query_dict({"password": SECRET}).render_as_string(hide_password=False)


def shown(*texts: str) -> None:
    for text in texts:
        assert not [secret for secret in SECRETS if secret in text], text


def in_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "study.toml":
            content = file.read_bytes()
            assert not [secret for secret in SECRETS if secret.encode() in content], file
