"""Folders that are not what was expected: the error says what is there, and what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.weights.folder import Folder
from inference.weights.found_instead import weights_instead
from inference.weights.gguf.parts import models_among
from inference.weights.locate import locate
from interface.errors import LoadError
from tests.support.checkpoint_folders import edit_json, save
from tests.support.tiny_models import random_model

Change = Callable[[Path], object]


def touch(*names: str) -> Change:
    """Make empty files."""

    def change(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (touch(), "expected a folder with a config.json, found an empty folder"),
        (touch("params.json", "consolidated.00.pth"), "found consolidated.00.pth, params.json"),
        (touch(*(f"{number}.txt" for number in range(9))), "found 0.txt, 1.txt, 2.txt, 3.txt and 5 more"),
        (touch("checkpoint-500/config.json"), "found one in {folder}/checkpoint-500; name that folder"),
        (touch("snapshots/abc/config.json"), "found one in {folder}/snapshots/abc; name that folder"),
        (touch("Q4_K_M/m.gguf", "Q8_0/m.gguf"), "GGUF files in it, {folder}/Q4_K_M/m.gguf, {folder}/Q8_0/m.gguf; name"),
    ],
    ids=["nothing", "Meta's files", "many files", "a trainer's folder", "the hub's cache", "quantizations in folders"],
)
def test_a_folder_that_is_no_checkpoint_is_described_by_what_it_has(
    change: Change, reason: str, tmp_path: Path
) -> None:
    change(tmp_path)
    with pytest.raises(LoadError) as refused:
        Folder(tmp_path, "model")
    assert reason.format(folder=tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (touch("README.md"), "none of them"),
        (
            touch("model.ckpt", "tf_model.h5"),
            "tf_model.h5, weights for TensorFlow; get the model's files in safetensors, or as a GGUF file",
        ),
        (
            touch("onnx/model_q4.onnx"),
            "model_q4.onnx, a model for ONNX Runtime; get the model's files in safetensors, or as a GGUF file",
        ),
        (
            touch("model.safetensors.part"),
            "model.safetensors.part, what a download left unfinished; get the model's files in safetensors, or as a "
            "GGUF file",
        ),
        (
            touch("weights/model.safetensors"),
            "files in safetensors in {folder}/weights; they must lie next to config.json",
        ),
        (
            touch("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors without model.safetensors.index.json, "
            "which says what is in them; download that file too",
        ),
        (
            touch("Model.safetensors"),
            "Model.safetensors, which transformers does not look for; a single file must have that name",
        ),
        (
            touch("consolidated.safetensors"),
            "consolidated.safetensors, in which weights have Mistral's names; get the files that transformers reads as "
            "well",
        ),
        (
            touch(".cache/huggingface/download/x.incomplete"),
            "x.incomplete, what a download left unfinished; get the model's files in safetensors, or as a GGUF file",
        ),
        (
            lambda folder: (folder / "model.safetensors").symlink_to("../blobs/abc"),
            "model.safetensors, a link to ../blobs/abc, which is not there",
        ),
        (
            lambda folder: os.mkfifo(folder / "model.safetensors"),
            "model.safetensors, a pipe, a socket or a device",
        ),
    ],
    ids=[
        "none",
        "TensorFlow's",
        "ONNX",
        "half a download",
        "a folder in it",
        "shards without an index",
        "another name",
        "Mistral's own files",
        "a download that was interrupted",
        "a link to nowhere",
        "a pipe",
    ],
)
def test_weights_that_are_not_found_are_reported_with_what_is_there(
    change: Change, reason: str, tmp_path: Path
) -> None:
    change(tmp_path)
    assert weights_instead(tmp_path) == reason.format(folder=tmp_path)


def test_an_adapter_is_reported_with_its_model_and_how_to_merge_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    with pytest.raises(
        LoadError, match=r"adapter_config.json: an adapter \(LoRA\) is not .* owner/base first, with peft"
    ):
        Folder(tmp_path, "model")


@pytest.mark.parametrize("metadata", [None, [], "none"])
def test_an_index_with_wrong_metadata_is_reported(metadata: object, tmp_path: Path) -> None:
    save(tmp_path, random_model("llama"))
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "model-00001-of-00001.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "./model-00001-of-00001.safetensors"}})
    )
    assert Folder(tmp_path, "model").elements > 0
    edit_json(index, metadata=metadata)
    with pytest.raises(LoadError, match=rf"{index}: metadata: expected an object, which may be empty, got "):
        Folder(tmp_path, "model")


def test_what_lies_next_to_a_gguf_model_to_see_with_is_no_other_model() -> None:
    names = [
        "Model-Q4_K_M.GGUF",
        "mmproj-model-f16.gguf",
        "MMPROJ.gguf",
        "model-mmproj-f16.gguf",
        "model-imatrix.gguf",
        "imatrix_of_model.gguf",
        "b-imatrix-Q4_K_M.gguf",
        "a-00001-of-00002.gguf",
        "a-00002-of-00002.gguf",
    ]
    assert models_among(names) == ["Model-Q4_K_M.GGUF", "a-00001-of-00002.gguf", "b-imatrix-Q4_K_M.gguf"]
    assert models_among(["sub/mmproj-f16.gguf", "sub/model.gguf"]) == ["sub/model.gguf"]


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"],
)
def test_a_link_to_nowhere_is_no_file_that_a_model_does_without(name: str, tmp_path: Path) -> None:
    """As in a cache of the hub's from which blobs were deleted."""
    save(tmp_path, random_model("llama"))
    (tmp_path / "README.md").symlink_to("../../blobs/of-no-use")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("../../blobs/abc")
    with pytest.raises(
        LoadError, match=rf"{name}: expected a file, got a link to ../../blobs/abc, which is not there;"
    ):
        Folder(tmp_path, "model")


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "my.jinja", "additional_chat_templates/my.jinja"]
)
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (os.mkfifo, "a pipe, a socket or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe, a socket or a device"),
        (Path.mkdir, "a folder"),
    ],
    ids=["a pipe", "a device", "a folder"],
)
def test_what_only_has_the_name_of_a_file_is_not_read(change: Change, kind: str, name: str, tmp_path: Path) -> None:
    """Reading from a pipe or a device may never end."""
    save(tmp_path, random_model("llama"))
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    change(tmp_path / name)
    with pytest.raises(LoadError, match=rf"{name}: expected a file, got {kind}; download the model's files again$"):
        Folder(tmp_path, "model")


def test_an_adapter_whose_settings_are_no_file_is_an_adapter(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "adapter_config.json")
    with pytest.raises(LoadError, match=r"an adapter \(LoRA\) is not supported; merge it into its model first"):
        Folder(tmp_path, "model")


def test_a_model_that_is_a_link_to_nowhere_is_reported_as_one(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.symlink_to("/no/such.gguf")
    with pytest.raises(LoadError, match=rf"^{model}: this is a link to /no/such.gguf, which is not there$"):
        locate(str(model))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_for_a_file_of_a_folder_the_folder_is_named(name: str, tmp_path: Path) -> None:
    touch(name)(tmp_path)
    with pytest.raises(LoadError, match=rf"got another file; name the folder that it is in, {tmp_path}$"):
        locate(str(tmp_path / name))
