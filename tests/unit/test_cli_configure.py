"""`configure` and `validate`: what is written, what is refused, and what stays untouched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cep.cli import main
from cep.config.load import load
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
        (["--profile", "moon"], 64, "The profiles are: local"),
        (["--set", "max_blcks=3"], 64, "Did you mean max_blocks?"),
        (["--set", "max_blocks"], 64, "NAME=VALUE"),
        (["--set", "max_blocks=many"], 64, "a whole number"),
        (["--set", "engine=Slurm"], 64, "one of GlobusComputeEngine"),
        (["--auth-policy", "x"], 78, "authentication_policy: must be a UUID"),
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
