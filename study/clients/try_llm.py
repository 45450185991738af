"""llm, the command line program."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from study.clients.checks import ADDRESS, MODEL, QUESTION, V1, check, expect, expect_json

folder = Path(tempfile.mkdtemp())
(folder / "extra-openai-models.yaml").write_text(
    f"- model_id: here\n  model_name: {json.dumps(MODEL)}\n  api_base: {V1}\n  api_key_name: here\n"
    "  supports_schema: true\n  supports_tools: true\n"
)
(folder / "keys.json").write_text('{"here": "any"}')


def llm(*arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("llm")), *arguments]
    environ = os.environ | {"LLM_USER_PATH": str(folder)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600)
    expect(done.returncode == 0, f"a success, got {done.stderr}")
    return done.stdout.strip()


check("llm 'a question'", lambda: llm("-m", "here", QUESTION))
check("llm --no-stream", lambda: llm("-m", "here", "--no-stream", QUESTION))
check("llm --schema", lambda: expect_json(llm("-m", "here", "--schema", json.dumps(ADDRESS), QUESTION)))
