"""`make clients` runs every program in study/clients, each in an environment that the Makefile makes."""

from study.clients.__main__ import HERE, NAMES, OWN_ENVIRONMENTS
from study.common.launcher import ROOT


def test_every_program_of_a_client_is_run() -> None:
    assert set(NAMES) == {path.name for path in HERE.glob("try_*")}


def test_an_environment_of_its_own_has_its_requirements_and_is_made_before_the_clients_run() -> None:
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("clients:")]
    for option in OWN_ENVIRONMENTS.values():
        name = option.replace("_", "-")
        assert (HERE / f"requirements-{name}.txt").is_file()
        assert f" .venv-{name} " in line
