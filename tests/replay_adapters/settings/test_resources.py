from replay_adapters.settings.resources import resource


def test_tasks_and_configs_are_found_in_a_checkout():
    assert (resource("tasks") / "replay_demo" / "replay_demo.yaml").is_file()
    assert (resource("configs") / "pairs" / "demo.yaml").is_file()
