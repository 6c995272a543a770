"""The Collections of ``tests.hub_server``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.hub_messages import Refusal, Reply, Request
from tests.hub_repo import Collection, Hub, Repo, User, git_sha1


class CollectionsApi:
    """What the routes below ``/api/collections`` do; the rest of the API knows who asks."""

    if TYPE_CHECKING:
        hub: Hub
        request: Request

        def user(self) -> User | None: ...
        def repo(self, name: str) -> Repo: ...

    def _owner(self, namespace: str) -> None:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not (user.can_write and user.owns(f"{namespace}/")):
            raise Refusal(403, f"You don't have the rights to create a collection under {namespace}")

    def create_collection(self) -> Reply:
        wanted = self.request.json()
        title, owner = wanted["title"], wanted["namespace"]
        self._owner(owner)
        words = "-".join(re.findall(r"[a-z0-9]+", title.lower()))
        slug = f"{owner}/{words}-{git_sha1(f'{owner}/{title}'.encode())[:24]}"
        if slug in self.hub.collections:
            return Reply.json({"error": "This collection already exists", "slug": slug}, 409)
        made = self.hub.collections[slug] = Collection(slug, title, owner, bool(wanted.get("private")))
        return Reply.json(made.described())

    def collection(self, slug: str) -> Reply:
        if slug not in self.hub.collections:
            raise Refusal(404, "Collection not found")
        return Reply.json(self.hub.collections[slug].described())

    def add_to_collection(self, slug: str) -> Reply:
        self.collection(slug)
        collection, item = self.hub.collections[slug], self.request.json()["item"]
        self._owner(collection.owner)
        self.repo(item["id"])
        if item["id"] in collection.models:
            return Reply.json({"error": "This item is already in the collection"}, 409)
        collection.models.append(item["id"])
        return Reply.json(collection.described())
