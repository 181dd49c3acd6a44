"""The rooms of the core stand on one another: a model, a pair of them, the method, its studies."""

from tests.test_imports import files


def test_rooms_import_from_rooms_below() -> None:
    method = {"lens", "candidates", "targets", "problem", "descent", "injection", "steered"}
    for module, targets in files().items():
        if module.startswith("replay_core.model"):
            above = method | {"pair", "studies"}
        elif module.startswith("replay_core.pair"):
            above = method | {"studies"}
        elif module.startswith("replay_core.") and not module.startswith("replay_core.studies"):
            above = {"studies"}
        else:
            continue
        rooms = {target.split(".")[1] for target in targets}
        assert not rooms & above, module
