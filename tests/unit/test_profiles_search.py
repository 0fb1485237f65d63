"""Where profiles come from: one file at a time, the nearest folder first; and the presets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cep import paths
from cep.config.load import load_text
from cep.errors import ConfigError, UsageError
from cep.profiles import catalog, presets
from cep.profiles.search import BUILT_IN, SearchPath
from tests.unit.profile_goldens import SEARCH, preset_text, profile_text


def folders(*places: Path) -> SearchPath:
    return SearchPath((*((str(place), place) for place in places), *SEARCH.folders))


def test_the_folders_are_asked_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "SITE_PROFILES", tmp_path / "etc")
    (tmp_path / "extra").mkdir()
    search = SearchPath.of(tmp_path / "user", str(tmp_path / "extra"))
    assert [folder for _, folder in search.folders] == [
        tmp_path / "extra",
        tmp_path / "user" / "profiles",
        tmp_path / "etc",
        paths.templates_dir() / "configs",
    ]


def test_a_site_replaces_one_part_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "_modules.sh.j2").write_text("site-init {{ modules[0] | quote }}\n")
    profile = catalog.find("slurm", folders(tmp_path))
    text = profile_text(profile, {"partition": "p", "modules": ["a"]})
    assert "site-init a" in text
    assert "type: SlurmProvider" in text


def test_a_site_replaces_a_schema_and_the_file_it_came_from_is_told(tmp_path: Path) -> None:
    (tmp_path / "_blocks.schema.yaml").write_text(
        (SEARCH.folders[0][1] / "_blocks.schema.yaml")
        .read_text()
        .replace("default: 1\n", "default: 2\n")
    )
    profile = catalog.find("slurm", folders(tmp_path))
    assert profile.variables["max_blocks"].default == 2
    assert profile.origins["_blocks.schema.yaml"] == str(tmp_path)
    assert profile.origins["slurm.yaml.j2"] == BUILT_IN


def test_the_nearer_folder_wins(tmp_path: Path) -> None:
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "threads.schema.yaml").write_text(
            f"summary: {name}.\ninclude: [endpoint]\nvariables: {{max_workers: "
            "{type: integer, default: null, description: W.}}\n"
        )
    assert catalog.find("threads", folders(tmp_path / "near", tmp_path / "far")).summary == "near."


def test_a_site_adds_a_profile_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml.j2").write_text(
        '{% include "_endpoint.yaml.j2" %}\nengine:\n  type: ThreadPoolEngine\n'
    )
    (tmp_path / "ours.schema.yaml").write_text("summary: Ours.\ninclude: [endpoint]\n")
    search = folders(tmp_path)
    assert "ours" in catalog.names(search)
    assert "ThreadPoolEngine" in profile_text(catalog.find("ours", search), {})


@pytest.mark.parametrize("name", ["../slurm", "/etc/passwd", "_endpoint", "", "a/b", ".x"])
def test_a_name_leads_to_no_file_outside_the_folders(name: str) -> None:
    with pytest.raises(UsageError):
        catalog.find(name, SEARCH)
    with pytest.raises(UsageError):
        presets.find(name, SEARCH)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (".", "The folder of profiles"),
        ("sites", "The folder of profiles"),
        ("sites/ours.yaml", "The profile's file"),
        ("threads.yaml.j2", "The profile's file"),
        ("threads.schema.yaml", "The profile's file"),
        ("_endpoint.schema.yaml", "The profile's file"),
        ("_endpoint.yaml.j2", "The profile's file"),
    ],
)
def test_what_others_can_write_is_refused_with_its_name(
    place: str, said: str, tmp_path: Path
) -> None:
    shipped = SEARCH.folders[0][1]
    for name in ("threads.yaml.j2", "threads.schema.yaml"):
        (tmp_path / name).write_text((shipped / name).read_text())
    for name in ("_endpoint.yaml.j2", "_endpoint.schema.yaml"):
        (tmp_path / name).write_text((shipped / name).read_text())
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "ours.yaml").write_text(
        "site: Ours\nprofile: threads\nsource: us\nchecked: 2026-11\nvalues: {}\n"
    )

    def used() -> str:
        preset = presets.find("ours", folders(tmp_path))
        return profile_text(catalog.find(preset.profile, folders(tmp_path)), {})

    assert "ThreadPoolEngine" in used()
    (tmp_path / place).chmod((tmp_path / place).stat().st_mode | 0o002)
    with pytest.raises(ConfigError, match=f"^{said} .* can be changed by everybody") as caught:
        used()
    assert str((tmp_path / place).resolve()) in str(caught.value)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_somebody_elses_folder_of_profiles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_modules.sh.j2").write_text("module load x\n")
    os.chown(tmp_path, 54321, -1)
    with pytest.raises(ConfigError, match="belongs to user 54321"):
        folders(tmp_path).find("_modules.sh.j2")
    assert folders(tmp_path).find("_blocks.yaml.j2") is not None


# -- presets -----------------------------------------------------------------------------------

OPEN = {"account": "a1", "queue": "q1", "project": "p1", "container_uri": "/x.sif"}


@pytest.mark.parametrize("name", presets.names(SEARCH))
def test_every_preset_tells_its_source_and_date_and_that_nobody_tried_it(name: str) -> None:
    preset = presets.find(name, SEARCH)
    assert preset.source
    assert len(preset.checked) == len("2026-08")
    assert preset.trust == "not tried by us"


@pytest.mark.parametrize("name", presets.names(SEARCH))
def test_every_preset_is_valid_once_what_is_open_is_given_and_not_before(name: str) -> None:
    preset = presets.find(name, SEARCH)
    given = {key: OPEN[key] for key in preset.required}
    load_text(preset_text(name, given), "x")
    if preset.required:
        with pytest.raises(ConfigError, match="is not set yet"):
            load_text(preset_text(name), "x")


def test_the_sites_that_are_promised_are_there() -> None:
    promised = "anvil bebop bridges2 delta expanse faster frontera stampede3 midway perlmutter "
    promised += "polaris aurora crux sophia improv hazel summit ospool uchicago-ai"
    assert set(promised.split(" ")) <= set(presets.names(SEARCH))


def test_a_site_adds_a_preset(tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "ours.yaml").write_text(
        "site: Ours\nprofile: slurm\nsource: us\nchecked: 2026-11\ntried: us\n"
        "required: [account]\nvalues: {partition: p}\n"
    )
    preset = presets.find("ours", folders(tmp_path))
    assert (preset.trust, preset.origin) == ("tried: us", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("site: x\n", "profile"),
        ("site: x\nprofile: slurm\nsource: s\nchecked: d\nvalues: {partitio: x}\n", "partitio"),
        ("site: x\nprofile: slurm\nsource: s\nchecked: d\nvalues: {walltime: x}\n", "walltime"),
        (
            "site: x\nprofile: slurm\nsource: s\nchecked: d\nvalues: {}\nrequired: [nothing]\n",
            "nothing",
        ),
        ("site: x\nprofile: moon\nsource: s\nchecked: d\nvalues: {}\n", "moon"),
        ("site: x\nrun: 'rm -rf'\n", "run"),
        ("[", "ours.yaml"),
    ],
)
def test_a_wrong_preset_is_told_with_its_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "ours.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        presets.find("ours", folders(tmp_path))
    assert said in str(caught.value)
    assert "ours.yaml" in str(caught.value)
