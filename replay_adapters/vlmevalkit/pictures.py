"""The picture of a row, out of the harness's own data."""

from typing import Any

from PIL import Image

from replay_core import UsageError


def picture_of(dataset: str, index: Any) -> Image.Image:
    """Return a row's first picture.

    Raises:
        UsageError: the harness has no such set, or the set no such row.
    """
    from vlmeval.dataset import build_dataset

    built = build_dataset(dataset)
    if built is None:
        raise UsageError(f"VLMEvalKit has no set {dataset}; give the picture with --image")
    rows = built.data[built.data["index"].astype(str) == str(index)]
    if rows.empty:
        raise UsageError(f"{dataset} has no row {index}")
    paths = built.dump_image(rows.iloc[0])
    with Image.open(paths[0] if isinstance(paths, list) else paths) as picture:
        return picture.convert("RGB")
