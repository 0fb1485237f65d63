"""`configure` and `validate`: what is written, what is refused, and what stays untouched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cep.cli import main
from cep.config.load import load
from cep.profiles import catalog
from cep.profiles.reference import built_in
from tests.certificates import Authority
from tests.unit.cli_rig import Rig, rig
from tests.unit.test_config_load import PUBLISHED_DEFAULT

__all__ = ["rig"]

UUID = "1f0e9a52-0000-4000-8000-00000000000a"


def files(base: Path) -> set[str]:
    return {str(path.relative_to(base)) for path in base.rglob("*")}


def test_the_messages_and_the_file_are_the_published_ones(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "program_name", lambda: "globus-compute-endpoint")
    monkeypatch.setenv("PATH", "/nowhere")  # no scheduler's command is found
    done = rig.run("configure", "my_first_endpoint")
    assert done.code == 0
    config = rig.base / "my_first_endpoint" / "config.yaml"
    assert done.out == (
        "Created profile for endpoint named <my_first_endpoint>\n"
        "\n"
        f"\tConfiguration file: {config}\n"
        "\n"
        "Use the `start` subcommand to run it:\n"
        "\n"
        "\t$ globus-compute-endpoint start my_first_endpoint\n"
    )
    assert done.err == ""
    assert config.read_text() == PUBLISHED_DEFAULT


def test_without_a_name_it_is_default(rig: Rig) -> None:
    rig.run("configure")
    assert (rig.base / "default" / "config.yaml").is_file()


def test_directories_and_files_are_private(rig: Rig) -> None:
    rig.run("configure", "ep")
    assert rig.base.stat().st_mode & 0o777 == 0o700
    assert (rig.base / "ep").stat().st_mode & 0o777 == 0o700
    for file in (rig.base / "ep").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_an_existing_name_is_refused_and_its_file_untouched(rig: Rig) -> None:
    config = rig.endpoint(text="engine: {type: ThreadPoolEngine} # mine\n") / "config.yaml"
    before = (config.read_bytes(), config.stat().st_mtime_ns, files(rig.base))
    done = rig.run("configure", "ep")
    assert done.code == 73
    assert "--update" in done.err
    assert (config.read_bytes(), config.stat().st_mtime_ns, files(rig.base)) == before


@pytest.mark.parametrize(
    "name", [".hidden", "a b", "a/b", "", "x" * 65, UUID, UUID.replace("-", ""), "ä", "a\n", ".."]
)
def test_a_name_outside_the_rule_is_refused_with_the_rule(name: str, rig: Rig) -> None:
    done = rig.run("configure", "--", name)
    assert done.code == 64
    assert "1 to 64 letters" in done.err
    assert not rig.base.exists()


@pytest.mark.parametrize("name", ["a", "x" * 64, "A.b-c_9"])
def test_a_name_inside_the_rule_is_taken(name: str, rig: Rig) -> None:
    assert rig.run("configure", name).code == 0


@pytest.mark.parametrize("option", [True, False], ids=["--service", "shell"])
def test_for_a_hub_the_address_is_written_and_the_port_is_a_comment(
    option: bool, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not option:
        monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "local")
    words = ["--service", "http://localhost:5000"] if option else []
    assert rig.run("configure", "ep", *words).code == 0
    config = rig.base / "ep" / "config.yaml"
    assert config.read_text().startswith("# amqp_port: 443")
    settings = load(config)
    assert settings.amqp_port is None
    assert settings.service_url == "http://localhost:5000"


def test_for_another_hosted_service_the_port_stays(rig: Rig) -> None:
    rig.run("configure", "ep", "--service", "https://compute.api.preview.globus.org")
    settings = load(rig.base / "ep" / "config.yaml")
    assert settings.amqp_port == 443
    assert settings.service_url == "https://compute.api.preview.globus.org"


def test_an_address_that_is_none_is_64(rig: Rig) -> None:
    assert rig.run("configure", "ep", "--service", "somewhere").code == 64
    assert not rig.base.exists()


@pytest.mark.parametrize(
    "text", ["plain", "yes", "a: b", "# x", "'q'", '"', "null", " lead", "{{ x }}", "ü"]
)
def test_any_display_name_comes_back_as_it_was_given(text: str, rig: Rig) -> None:
    assert rig.run("configure", "ep", "--display-name", text).code == 0
    assert load(rig.base / "ep" / "config.yaml").display_name == text


def test_options_and_variables_reach_the_file(rig: Rig) -> None:
    done = rig.run(
        "configure",
        "ep",
        "--auth-policy",
        UUID,
        "--subscription-id",
        UUID,
        "--high-assurance",
        "--set",
        "max_blocks=4",
        "--set",
        "worker_init=module load x\nexport A='b'",
        "--set",
        "max_workers=2",
    )
    assert done.code == 0, done.err
    settings = load(rig.base / "ep" / "config.yaml")
    assert (settings.authentication_policy, settings.subscription_id) == (UUID, UUID)
    assert settings.high_assurance is True
    engine = settings.engine
    assert engine.provider.arguments["max_blocks"] == 4  # type: ignore[union-attr]
    assert engine.provider.arguments["worker_init"] == "module load x\nexport A='b'"  # type: ignore[union-attr]
    assert engine.htex == {"max_workers_per_node": 2}  # type: ignore[union-attr]


@pytest.mark.parametrize("engine", ["ProcessPoolEngine", "ThreadPoolEngine"])
def test_the_profile_knows_the_pools(engine: str, rig: Rig) -> None:
    rig.run("configure", "ep", "--set", f"engine={engine}", "--set", "max_workers=3")
    assert load(rig.base / "ep" / "config.yaml").engine.max_workers == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--profile", "moon"], 64, "local, lsf, pbs"),
        (["--profile", "slrum"], 64, "Did you mean slurm?"),
        (["--site", "polarys"], 64, "Did you mean polaris?"),
        (["--site", "polaris", "--profile", "slurm"], 64, "is for the profile pbs, not slurm"),
        (["--profile", "slurm"], 64, "partition is missing: Partition to submit to"),
        (["--profile-dir", "/nowhere"], 66, "There is no folder /nowhere"),
        (["--vars", "/nowhere.yaml"], 66, "variables file /nowhere.yaml cannot be read"),
        (["--set", "max_blcks=3"], 64, "Did you mean max_blocks?"),
        (["--set", "max_blocks"], 64, "NAME=VALUE"),
        (["--set", "max_blocks=many"], 64, "a whole number"),
        (["--set", "engine=Slurm"], 64, "one of GlobusComputeEngine"),
        (["--auth-policy", "x"], 64, "authentication_policy is 'x', but it must be a UUID"),
        (["--endpoint-config", "x.yaml", "--set", "max_blocks=1"], 64, "do not go with it"),
        (["--endpoint-config", "/nowhere.yaml"], 66, "cannot be read"),
    ],
)
def test_wrong_wishes_are_named_and_nothing_is_made(
    words: list[str], code: int, said: str, rig: Rig
) -> None:
    done = rig.run("configure", "ep", *words)
    assert (done.code, said in done.err) == (code, True), done.err
    assert not rig.base.exists()


def test_update_goes_on_from_what_was_chosen_before(rig: Rig) -> None:
    rig.run("configure", "ep", "--display-name", "mine", "--service", "http://hub:5000")
    done = rig.run("configure", "ep", "--update", "--set", "max_blocks=7")
    assert done.code == 0
    settings = load(rig.base / "ep" / "config.yaml")
    assert settings.display_name == "mine"
    assert settings.service_url == "http://hub:5000"
    assert settings.engine.provider.arguments["max_blocks"] == 7  # type: ignore[union-attr]
    assert not (rig.base / "ep" / "config.yaml.backup").exists()


def test_update_a_second_time_changes_nothing(rig: Rig) -> None:
    rig.run("configure", "ep", "--set", "max_blocks=7")
    config = rig.base / "ep" / "config.yaml"
    before = config.stat()
    done = rig.run("configure", "ep", "--update", "--set", "max_blocks=7")
    assert (done.code, "nothing changed" in done.out) == (0, True)
    assert (config.stat().st_mtime_ns, config.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_update_keeps_a_file_that_was_edited_by_hand(rig: Rig) -> None:
    mine = "engine: {type: ThreadPoolEngine} # mine\n"
    root = rig.endpoint(text=mine)
    done = rig.run("configure", "ep", "--update")
    assert "edited by hand" in done.err
    assert (root / "config.yaml.backup").read_text() == mine
    assert (root / "config.yaml").read_text() == PUBLISHED_DEFAULT


def test_update_works_on_an_older_name_that_would_not_be_given_today(rig: Rig) -> None:
    rig.endpoint("my endpoint")
    assert rig.run("configure", "my endpoint", "--update").code == 0


def test_dry_run_shows_and_writes_nothing(rig: Rig) -> None:
    done = rig.run("configure", "ep", "--dry-run")
    assert (done.code, done.out) == (0, PUBLISHED_DEFAULT)
    assert not rig.base.exists()


def test_dry_run_of_an_update_shows_the_difference(rig: Rig) -> None:
    rig.run("configure", "ep")
    done = rig.run("configure", "ep", "--update", "--dry-run", "--set", "max_blocks=2")
    assert "-    max_blocks: 1\n+    max_blocks: 2\n" in done.out
    assert (rig.base / "ep" / "config.yaml").read_text() == PUBLISHED_DEFAULT


def test_diff_shows_the_difference_and_writes(rig: Rig) -> None:
    rig.run("configure", "ep")
    done = rig.run("configure", "ep", "--update", "--diff", "--set", "max_blocks=2")
    assert "+    max_blocks: 2\n" in done.out
    assert "max_blocks: 2" in (rig.base / "ep" / "config.yaml").read_text()


def test_a_whole_file_is_taken_as_it_is_comments_included(rig: Rig, tmp_path: Path) -> None:
    source = tmp_path / "site.yaml"
    source.write_text("# of the site\nengine: {type: ThreadPoolEngine}\n")
    assert rig.run("configure", "ep", "--endpoint-config", str(source)).code == 0
    assert (rig.base / "ep" / "config.yaml").read_text() == source.read_text()


def test_options_are_written_into_the_copy_of_a_file(rig: Rig, tmp_path: Path) -> None:
    source = tmp_path / "site.yaml"
    source.write_text("engine: {type: ThreadPoolEngine}\n")
    words = ["--endpoint-config", str(source), "--display-name", "x", "--service", "http://h:1"]
    assert rig.run("configure", "ep", *words).code == 0
    settings = load(rig.base / "ep" / "config.yaml")
    assert (settings.display_name, settings.service_url) == ("x", "http://h:1")


def test_a_wrong_file_makes_no_endpoint(rig: Rig, tmp_path: Path) -> None:
    source = tmp_path / "site.yaml"
    source.write_text("engin: {type: ThreadPoolEngine}\n")
    done = rig.run("configure", "ep", "--endpoint-config", str(source))
    assert done.code == 78
    assert str(source) in done.err
    assert not rig.base.exists()


def test_a_file_that_others_can_change_makes_no_endpoint(rig: Rig, tmp_path: Path) -> None:
    source = tmp_path / "site.yaml"
    source.write_text("engine: {type: ThreadPoolEngine}\n")
    source.chmod(0o666)
    done = rig.run("configure", "ep", "--endpoint-config", str(source))
    assert done.code == 78
    assert f"The configuration {source} can be changed by" in done.err
    assert not rig.base.exists()


def test_something_else_in_the_endpoint_s_place_is_left_alone(rig: Rig) -> None:
    (rig.base / "ep").mkdir(parents=True)
    (rig.base / "ep" / "thesis.txt").write_text("all of it")
    for words in ([], ["--update"]):
        assert rig.run("configure", "ep", *words).code == 73
    assert files(rig.base) == {"ep", "ep/thesis.txt"}


def test_a_failure_while_making_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_source: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cep.profiles.endpoint._move_in_place", full)
    done = rig.run("configure", "ep")
    assert (done.code, "No space left" in done.err) == (73, True)
    assert files(rig.base) == set()


# -- profiles, presets, variables --------------------------------------------------------------


def command_on_path(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("command", "profile"), [("sbatch", "slurm"), ("qsub", "pbs"), ("bsub", "lsf")]
)
def test_alone_it_writes_the_default_file_and_names_the_profile_of_the_scheduler(
    command: str, profile: str, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_on_path(tmp_path / "bin", command, monkeypatch)
    done = rig.run("configure", "ep")
    assert (rig.base / "ep" / "config.yaml").read_text() == PUBLISHED_DEFAULT
    assert len(done.err.splitlines()) == 1
    assert f"{command}," in done.err
    assert f"configure ep --update --profile {profile}" in done.err


@pytest.mark.parametrize("words", [["--profile", "threads"], ["--update"]])
def test_with_a_choice_the_scheduler_is_not_named(
    words: list[str], rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_on_path(tmp_path / "bin", "sbatch", monkeypatch)
    if "--update" in words:
        rig.run("configure", "ep")
    assert "sbatch" not in rig.run("configure", "ep", *words).err


def test_variables_come_from_files_and_the_command_line_wins(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("partition: long\nmax_blocks: 3\naccount: 007\n")
    (tmp_path / "b.json").write_text('{"max_blocks": "4"}')
    done = rig.run(
        *("configure", "ep", "--profile", "slurm", "--vars", str(tmp_path / "a.yaml")),
        *("--vars", str(tmp_path / "b.json"), "--set", "partition=debug"),
    )
    assert done.code == 0, done.err
    provider = load(rig.base / "ep" / "config.yaml").engine.provider.arguments  # type: ignore[union-attr]
    assert (provider["partition"], provider["max_blocks"]) == ("debug", 4)
    assert provider["account"] == "007"


def test_a_preset_brings_its_profile_and_values_and_set_wins(rig: Rig) -> None:
    words = ["--site", "polaris", "--set", "account=MyProject", "--set", "queue=prod"]
    assert rig.run("configure", "ep", *words).code == 0
    provider = load(rig.base / "ep" / "config.yaml").engine.provider  # type: ignore[union-attr]
    assert provider.type == "PBSProProvider"
    assert (provider.arguments["queue"], provider.arguments["account"]) == ("prod", "MyProject")
    assert provider.arguments["select_options"] == "ngpus=4"


def test_what_a_preset_leaves_open_is_refused_at_start_with_the_line_to_edit(rig: Rig) -> None:
    done = rig.run("configure", "ep", "--site", "polaris")
    assert done.code == 0
    config = rig.base / "ep" / "config.yaml"
    line = config.read_text().splitlines().index("    account: <SET account>") + 1
    assert f"line {line} of {config}" in done.err
    for command in ("start", "validate", "restart"):
        refused = rig.run(command, "ep")
        assert refused.code == 78
        assert f"line {line}: engine.provider.account: is not set yet" in refused.err
        assert "--update --set account=VALUE" in refused.err
    assert rig.run("configure", "ep", "--update", "--set", "account=mine").code == 0
    assert rig.run("validate", "ep").code == 0
    assert "account: mine" in config.read_text()


def test_what_its_owner_wrote_into_the_file_counts_as_set(rig: Rig) -> None:
    rig.run("configure", "ep", "--site", "polaris")
    config = rig.base / "ep" / "config.yaml"
    config.write_text(config.read_text().replace("<SET account>", "mine"))
    done = rig.run("configure", "ep", "--update", "--set", "max_blocks=9")
    assert done.code == 0, done.err
    assert "is not set" not in done.err
    assert rig.run("validate", "ep").code == 0
    assert "account: mine" in config.read_text()


def test_an_update_goes_on_from_the_preset(rig: Rig) -> None:
    rig.run("configure", "ep", "--site", "polaris", "--set", "account=mine")
    assert rig.run("configure", "ep", "--update", "--set", "max_blocks=9").code == 0
    provider = load(rig.base / "ep" / "config.yaml").engine.provider.arguments  # type: ignore[union-attr]
    assert (provider["account"], provider["max_blocks"]) == ("mine", 9)
    assert provider["queue"] == "debug-scaling"


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    monkeypatch.setattr("cep.cli.configure.interactive", lambda: True)
    lines = iter(answers)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _prompt="": next(lines))


def test_on_a_terminal_what_is_required_is_asked_for_and_checked(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch, "two words", "", "debug")
    done = rig.run("configure", "ep", "--profile", "slurm")
    assert done.code == 0, done.err
    assert "Partition to submit to" in done.err
    assert "It must be one word" in done.err
    assert "It is needed" in done.err
    assert "partition: debug" in (rig.base / "ep" / "config.yaml").read_text()
    # The answer is remembered.
    monkeypatch.setattr("cep.cli.configure.interactive", lambda: False)
    assert rig.run("configure", "ep", "--update", "--set", "qos=low").code == 0


def test_what_a_preset_leaves_open_may_stay_open_on_a_terminal(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch, "")
    assert rig.run("configure", "ep", "--site", "polaris").code == 0
    assert "<SET account>" in (rig.base / "ep" / "config.yaml").read_text()


def test_an_answer_may_make_another_variable_needed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch, "docker", "img:1")
    done = rig.run("configure", "ep", "--profile", "container")
    assert done.code == 0, done.err
    assert "container_uri: img:1" in (rig.base / "ep" / "config.yaml").read_text()


def test_nothing_is_asked_when_nothing_is_missing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch)
    words = ["--profile", "slurm", "--set", "partition=debug"]
    assert rig.run("configure", "ep", *words).code == 0


# -- update of a file that its owner has edited ------------------------------------------------


def edited(rig: Rig, old: str, new: str, *words: str) -> Path:
    rig.run("configure", "ep", *words)
    config = rig.base / "ep" / "config.yaml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    return config


def test_update_keeps_the_owner_s_keys_and_comments(rig: Rig) -> None:
    mine = "amqp_port: 443\n# why: the admin said so\non_restart: retry\n"
    config = edited(rig, "amqp_port: 443\n", mine)
    before = config.read_text()
    done = rig.run("configure", "ep", "--update", "--set", "max_blocks=4")
    assert done.code == 0, done.err
    text = config.read_text()
    assert mine in text
    assert "max_blocks: 4" in text
    assert "Your own changes stay: on_restart." in done.err
    assert config.with_name("config.yaml.backup").read_text() == before


def test_a_second_update_of_an_edited_file_changes_nothing(rig: Rig) -> None:
    config = edited(rig, "display_name: null\n", "display_name: Mine\n")
    rig.run("configure", "ep", "--update", "--set", "max_blocks=4")
    before = config.stat()
    done = rig.run("configure", "ep", "--update", "--set", "max_blocks=4")
    assert "nothing changed" in done.out
    assert config.stat().st_mtime_ns == before.st_mtime_ns
    assert "display_name: Mine" in config.read_text()


def test_a_value_that_the_command_sets_wins_over_the_owner_s(rig: Rig) -> None:
    config = edited(rig, "max_blocks: 1\n", "max_blocks: 2  # mine\n")
    done = rig.run("configure", "ep", "--update", "--set", "max_blocks=5")
    assert "Set anew in place of your own: engine.provider.max_blocks." in done.err
    assert load(config).engine.provider.arguments["max_blocks"] == 5  # type: ignore[union-attr]


def test_changes_that_do_not_go_together_with_an_update_are_refused(rig: Rig) -> None:
    config = edited(rig, "min_blocks: 0\n", "min_blocks: 1\n")
    before = config.read_text()
    done = rig.run("configure", "ep", "--update", "--set", "max_blocks=0")
    assert done.code == 78
    assert "Your own changes do not go together" in done.err
    assert config.read_text() == before


def test_another_profile_keeps_who_the_endpoint_is_and_no_more(rig: Rig) -> None:
    rig.run("configure", "ep", "--display-name", "mine", "--set", "max_blocks=7")
    words = ["--profile", "slurm", "--set", "partition=debug"]
    assert rig.run("configure", "ep", "--update", *words).code == 0
    settings = load(rig.base / "ep" / "config.yaml")
    assert settings.display_name == "mine"
    assert settings.engine.provider.arguments["max_blocks"] == 1  # type: ignore[union-attr]


def test_what_another_profile_says_wins_over_an_edit_of_the_same_key(rig: Rig) -> None:
    config = edited(rig, "    type: LocalProvider\n", "    type: PBSProProvider\n")
    words = ["--profile", "slurm", "--set", "partition=debug"]
    assert rig.run("configure", "ep", "--update", *words).code == 0
    assert load(config).engine.provider.type == "SlurmProvider"  # type: ignore[union-attr]


def test_another_profile_keeps_the_old_file_and_the_owner_s_keys(rig: Rig) -> None:
    config = edited(rig, "amqp_port: 443\n", "amqp_port: 443\non_restart: retry\n")
    done = rig.run("configure", "ep", "--update", "--profile", "slurm", "--set", "partition=debug")
    assert done.code == 0, done.err
    settings = load(config)
    assert settings.on_restart == "retry"
    assert settings.engine.provider.type == "SlurmProvider"  # type: ignore[union-attr]
    assert config.with_name("config.yaml.backup").exists()


def test_a_variable_that_the_schema_has_no_more_does_not_stop_an_update(
    rig: Rig, tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "local.schema.yaml").write_text(
        "summary: Ours.\ninclude: [endpoint]\n"
        "variables: {extra: {type: word, default: null, description: E.}}\n"
    )
    (ours / "local.yaml.j2").write_text("engine:\n  type: ThreadPoolEngine\n")
    words = ["--profile-dir", str(ours), "--set", "extra=x"]
    assert rig.run("configure", "ep", "--profile", "local", *words).code == 0
    assert rig.run("configure", "ep", "--update").code == 0


# -- validate ----------------------------------------------------------------------------------


def test_validate_takes_a_name_or_a_file(rig: Rig, tmp_path: Path) -> None:
    rig.run("configure", "ep")
    assert rig.run("validate", "ep").code == 0
    assert rig.run("validate", str(rig.base / "ep" / "config.yaml")).code == 0
    assert rig.run("validate", str(tmp_path / "none.yaml")).code == 66


def test_validate_lists_every_problem(rig: Rig) -> None:
    rig.endpoint(text="debug: 3\namqp_port: 1\nengine: {type: ThreadPoolEngine}\n")
    done = rig.run("validate", "ep")
    assert done.code == 78
    assert "line 1: debug" in done.err
    assert "line 2: amqp_port" in done.err
    told = json.loads(rig.run("validate", "ep", "--json").out)
    assert (told["valid"], len(told["problems"])) == (False, 2)


def test_validate_shows_warnings_and_is_content(rig: Rig) -> None:
    rig.endpoint(text="detach_endpoint: true\nengine: {type: ThreadPoolEngine}\n")
    done = rig.run("validate", "ep")
    assert done.code == 0
    assert "detach_endpoint is ignored" in done.err


def test_validate_warns_of_variables_that_an_update_would_refuse(rig: Rig) -> None:
    rig.run("configure", "ep", "--profile", "slurm", "--set", "partition=debug")
    record = rig.base / "ep" / "profile.json"
    record.write_text(record.read_text().replace('"partition": "debug"', '"partition": "a b"'))
    done = rig.run("validate", "ep")
    assert done.code == 0
    assert "partition is 'a b', but it must be one word" in done.err
    told = json.loads(rig.run("validate", "ep", "--json").out)
    assert "partition is 'a b'" in told["warnings"][0]


def test_validate_says_nothing_of_variables_that_are_right(rig: Rig) -> None:
    rig.run("configure", "ep", "--site", "polaris", "--set", "account=mine")
    assert rig.run("validate", "ep").err == ""


def authority_file(directory: Path) -> Path:
    """A file of authorities that can be used."""
    return Authority(directory / "ca").file


def test_the_authorities_of_the_option_or_the_shell_are_written_into_the_file(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = authority_file(tmp_path)
    hub = ("--service", "https://hub.example.org:5000")
    monkeypatch.chdir(ca.parent)
    assert rig.run("configure", "option", *hub, "--ca-file", "ca.pem").code == 0
    monkeypatch.setenv("SSL_CERT_FILE", "ca.pem")
    assert rig.run("configure", "shell", *hub).code == 0
    assert rig.run("configure", "hosted").code == 0
    for name in ("option", "shell", "hosted"):
        assert load(rig.base / name / "config.yaml").ssl_ca_file == str(ca)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert rig.run("configure", "shell", "--update", "--display-name", "x").code == 0
    assert load(rig.base / "shell" / "config.yaml").ssl_ca_file == str(ca)


def test_the_shells_authorities_are_of_no_interest_to_a_service_without_tls(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    assert rig.run("configure", "ep", "--service", "http://localhost:5000").code == 0
    assert load(rig.base / "ep" / "config.yaml").ssl_ca_file is None


def test_a_whole_file_gets_the_authorities_unless_it_names_its_own(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = authority_file(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    source = tmp_path / "source.yaml"
    base = "service_url: https://hub.example.org\nengine: {type: ThreadPoolEngine}\n"
    for name, text, wanted in (
        ("without", base, str(ca)),
        ("own", base + "ssl_ca_file: /site/ca.pem\n", "/site/ca.pem"),
        ("plain", base.replace("https", "http"), None),
    ):
        source.write_text(text)
        assert rig.run("configure", name, "--endpoint-config", str(source)).code == 0
        assert load(rig.base / name / "config.yaml").ssl_ca_file == wanted


def test_authorities_that_cannot_be_used_are_refused_and_nothing_is_written(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    done = rig.run("configure", "ep", "--ca-file", str(wrong))
    assert (done.code, str(wrong) in done.err) == (64, True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    assert rig.run("configure", "ep").code == 78
    monkeypatch.setenv("GLOBUS_SDK_VERIFY_SSL", "false")
    done = rig.run("configure", "ep")
    assert (done.code, "never" in done.err) == (78, True)
    assert not (rig.base / "ep").exists()


REQUIRED = {
    "container": ("container_type=docker", "container_uri=i"),
    "kubernetes": ("image=i",),
    "lsf": ("queue=q",),
    "pbs": ("queue=q",),
    "slurm": ("partition=p",),
    "torque": ("queue=q",),
}


@pytest.mark.parametrize("profile", catalog.names(built_in()))
def test_the_authorities_are_written_with_every_profile_and_kept_by_an_update(
    profile: str, rig: Rig, tmp_path: Path
) -> None:
    ca = authority_file(tmp_path)
    words = [word for one in REQUIRED.get(profile, ()) for word in ("--set", one)]
    done = rig.run("configure", "ep", "--profile", profile, *words, "--ca-file", str(ca))
    assert done.code == 0, done.err
    config = rig.base / "ep" / "config.yaml"
    assert load(config).ssl_ca_file == str(ca)
    assert json.loads((rig.base / "ep" / "profile.json").read_text())["ca_file"] == str(ca)
    assert rig.run("configure", "ep", "--update", "--display-name", "x").code == 0
    assert (load(config).ssl_ca_file, load(config).display_name) == (str(ca), "x")


def test_options_win_over_authorities_and_services_written_by_hand_and_the_shell_does_not(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = authority_file(tmp_path)
    other = authority_file(tmp_path / "other")
    hub = "https://hub.example.org:5000"
    rig.run("configure", "ep", "--service", hub, "--ca-file", str(ca))
    config = rig.base / "ep" / "config.yaml"
    by_hand = config.read_text().replace(hub, "https://mine.example.org")
    config.write_text(by_hand.replace(str(ca), "/my/own.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    done = rig.run("configure", "ep", "--update", "--display-name", "x")
    assert "Your own changes stay: service_url, ssl_ca_file." in done.err
    assert load(config).ssl_ca_file == "/my/own.pem"
    third = authority_file(tmp_path / "third")
    words = ("--service", "https://new.example.org", "--ca-file", str(third))
    done = rig.run("configure", "ep", "--update", *words)
    assert "Set anew in place of your own: service_url, ssl_ca_file." in done.err
    assert load(config).ssl_ca_file == str(third)
    assert load(config).service_url == "https://new.example.org"


# -- what others can write ---------------------------------------------------------------------


@pytest.mark.parametrize("file", [".", "config.yaml", "profile.json"])
def test_an_update_carries_nothing_over_that_others_could_write(file: str, rig: Rig) -> None:
    rig.run("configure", "ep")
    root = rig.base / "ep"
    before = (root / "config.yaml").read_text()
    (root / file).chmod((root / file).stat().st_mode | 0o002)
    done = rig.run("configure", "ep", "--update", "--display-name", "x")
    assert (done.code, "can be changed by everybody" in done.err) == (78, True)
    assert (root / "config.yaml").read_text() == before


@pytest.mark.parametrize("file", ["vars.yaml", "profiles", "profiles/_blocks.yaml.j2"])
def test_variables_and_profiles_that_others_can_write_are_refused(
    file: str, rig: Rig, tmp_path: Path
) -> None:
    (tmp_path / "vars.yaml").write_text("partition: p\n")
    (tmp_path / "profiles").mkdir()
    shipped = built_in().find("_blocks.yaml.j2")
    assert shipped is not None
    (tmp_path / "profiles" / "_blocks.yaml.j2").write_text(shipped.path.read_text())
    words = ["configure", "ep", "--profile", "slurm", "--vars", str(tmp_path / "vars.yaml")]
    words += ["--profile-dir", str(tmp_path / "profiles")]
    assert rig.run(*words, "--dry-run").code == 0
    place = tmp_path / file
    place.chmod(place.stat().st_mode | 0o002)
    done = rig.run(*words)
    assert (done.code, f"{place} can be changed by everybody" in done.err) == (78, True), done.err
    assert not (rig.base / "ep").exists()
