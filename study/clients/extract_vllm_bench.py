"""Takes the request functions of `vllm bench serve` out of vLLM's wheel, and nothing else: all of it is gigabytes.

python -m study.clients.extract_vllm_bench WHEEL FOLDER
"""

import sys
import zipfile
from pathlib import Path

MODULE = "vllm/benchmarks/lib/endpoint_request_func.py"


def main(wheel: str, folder: str) -> None:
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        target.joinpath(Path(MODULE).name).write_bytes(archive.read(MODULE))


if __name__ == "__main__":
    main(*sys.argv[1:])
