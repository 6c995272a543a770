"""Published repos go into a Collection of their namespace, once each, by the real client."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import run
from tests.hub_client import Client
from tests.hub_server import READER, HubServer

CODE = """
from muscle_zoo.errors import HubError
from muscle_zoo.publishing.publish import Change, add_to_collection
changes = [Change(f"muscle-zoo/{name}", True, "", (), (), "", "") for name in ("a", "b")]
for name in ("a", "b"):
    api.create_repo(f"muscle-zoo/{name}")
tell("one", lambda: add_to_collection(changes[:1], "MUSCLE's zoo", api))
tell("both", lambda: add_to_collection(changes, "MUSCLE's zoo", api))

def refused():
    try:
        add_to_collection(changes, "Another", HfApi(token=READER))
    except HubError as error:
        return str(error)
tell("refused", refused)
"""


def test_a_collection_is_made_once_and_has_each_repo_once(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as hub:
        client = Client(hub, tmp_path / "home", xet=False)
        seen = client.run(f"READER = {READER!r}\n{CODE}")
        ((slug, collection),) = hub.collections.items()
        assert seen["one"] == seen["both"] == f"{hub.url}/collections/{slug}"
        assert slug.startswith("muscle-zoo/muscle-s-zoo-")
        assert (collection.models, collection.title) == (["muscle-zoo/a", "muscle-zoo/b"], "MUSCLE's zoo")
        assert seen["refused"].startswith("collection Another: the token may not do this")


@pytest.mark.parametrize("flag", ["--dry-run", "--create-pr"])
def test_a_collection_is_of_what_is_published(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["publish", "cnn4.muscle_digits_10", "--namespace", "org", "--collection", "MUSCLE", flag]
    code, _, err = run(words, capsys)
    assert code == 2 and "--collection is of what is published" in err
