"""The real client of the Hugging Face Hub in a subprocess, for tests that use ``tests.hub_server``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hub_server import OWNER, HubServer

PRELUDE = """
import json, os, sys, time
time.sleep = lambda seconds: None  # the client waits between its tries
from huggingface_hub import *
api, seen = HfApi(), {}
def tell(name, action):
    try:
        seen[name] = action()
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        seen[name] = type(error).__name__ + (f" {status}" if status else "")
def get(repo, path="model.safetensors", **how):
    return hf_hub_download(repo, path, **how)
def put(repo, content, path="model.safetensors", **how):
    return api.upload_file(repo_id=repo, path_or_fileobj=content, path_in_repo=path, **how)
"""


class Client:
    """Runs Python where huggingface_hub is imported, in processes of its own.

    The code finds ``api``, ``get(repo, path)`` and ``put(repo, content, path)``, and tells with ``tell(name, action)``
    what an action returned, or the name of its error and the status of the answer.
    """

    def __init__(self, hub: HubServer, home: Path, xet: bool) -> None:
        self.xet = xet
        clean = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
        quiet = {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        quiet |= {"HF_XET_CLIENT_RETRY_BASE_DELAY": "1ms"} if xet else {"HF_HUB_DISABLE_XET": "1"}
        self.env = {**clean, **quiet, "HF_ENDPOINT": hub.url, "HF_TOKEN": OWNER, "HF_HOME": str(home)}

    def start(self, code: str, **env: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", f"{PRELUDE}\n{code}\nprint(json.dumps(seen))"]
        return subprocess.Popen(words, env={**self.env, **env}, text=True, stdout=subprocess.PIPE)

    def run(self, code: str, **env: str) -> dict[str, Any]:
        """What the code told.

        Raises:
            AssertionError: The code failed.
        """
        child = self.start(code, **env)
        out, _ = child.communicate(timeout=100)
        assert child.returncode == 0
        return json.loads(out)
