"""The configuration: what loads, and what is said about what does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from apscheduler.triggers.cron import CronTrigger
from canary import TOKEN
from pydantic import ValidationError

from rostersync.config import Config, Cron, find_config, load, parse_duration, spell_duration, urls, warnings
from rostersync.errors import ConfigError, NotConfigured

SOURCE = '[[sources]]\nname = "main"\nbase_url = "https://api.managebac.com"\n'
SECRET = "s3cr3t-Pa55word"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def read(folder: Path, text: str, environ: dict[str, str] | None = None, *, source: str = SOURCE) -> Config:
    path = folder / "config.toml"
    path.write_text(f"{text}\n{source}", encoding="utf-8")
    return load(path, environ or {})


def mistakes(folder: Path, text: str, environ: dict[str, str] | None = None, *, source: str = SOURCE) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, environ, source=source)
    assert caught.value.exit_status == 2
    assert caught.value.hint
    return list(caught.value.mistakes)


# What loads ------------------------------------------------------------------------------------------------------


def test_a_name_and_an_address_are_enough(folder: Path) -> None:
    config = read(folder, "")
    assert config.database.url == f"sqlite:///{folder}/roster.db"
    assert config.sources[0].api_version == "v2p1"
    assert config.sources[0].auth == "header"
    assert (config.schedule.incremental, config.schedule.full) == (timedelta(hours=1), Cron("0 2 * * *"))
    assert (config.sync.overlap, config.sync.per_page, config.sync.max_age) == (
        timedelta(minutes=10),
        200,
        timedelta(days=7),
    )
    assert (config.guard.max_deletions, config.guard.max_deletion_percent, config.guard.floor) == (25, 5.0, 3)
    assert warnings(config) == []


def test_a_configuration_cannot_be_changed(folder: Path) -> None:
    with pytest.raises(ValidationError):
        read(folder, "").sync.per_page = 1


def test_an_editors_byte_order_mark_and_line_ends_do_no_harm(folder: Path) -> None:
    path = folder / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SOURCE.replace("\n", "\r\n").encode())
    assert load(path, {}).sources[0].name == "main"


def test_a_whole_number_does_for_the_percentage(folder: Path) -> None:
    assert read(folder, "[guard]\nmax_deletion_percent = 100").guard.max_deletion_percent == 100


def test_a_hook_that_is_a_path_is_sought_from_the_files_folder(folder: Path) -> None:
    for words, program in (("./notify", f"{folder}/notify"), ("/opt/notify", "/opt/notify"), ("notify", "notify")):
        hooks = read(folder, f'[hooks]\nafter_run = ["{words}", "./a"]\ntimeout = "5s"').hooks
        assert hooks.after_run == (program, "./a")
        assert hooks.timeout == timedelta(seconds=5)
    assert read(folder, "[hooks]\nafter_run = []").hooks.after_run == ()


@pytest.mark.parametrize("value", [f'"curl {SECRET}"', f'["", "{SECRET}"]', f'["curl", "{SECRET}\\u0000"]', "[1]"])
def test_a_hook_that_is_no_command_is_told_without_its_words(folder: Path, value: str) -> None:
    (line,) = mistakes(folder, f"[hooks]\nafter_run = {value}")
    assert line.startswith("hooks.after_run")
    assert 'expected a list of strings: a command and its arguments, such as ["./notify.sh"]' in line
    assert SECRET not in line


# The file --------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_told_with_the_command_that_writes_one(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration at") as caught:
        load(folder / "none.toml")
    assert "rostersync init" in caught.value.hint


def test_a_folder_is_no_configuration(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load(folder)


def test_broken_toml_is_told_with_line_and_column(folder: Path) -> None:
    (line,) = mistakes(folder, '[database]\nurl = "x\n')
    assert "line 2, column " in line


def test_a_file_in_another_encoding_is_told_with_its_line(folder: Path) -> None:
    path = folder / "config.toml"
    path.write_bytes(b"[sync]\n# f\xfcr alle\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        load(path)


def test_the_file_is_sought_in_a_fixed_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    named, environ = Path("named.toml"), {"ROSTERSYNC_CONFIG": "other.toml"}
    assert find_config(named, environ) == named
    assert find_config(None, environ) == Path("other.toml")
    Path("config.toml").touch()
    assert find_config(None, {"ROSTERSYNC_CONFIG": ""}) == Path("config.toml")
    Path("config.toml").unlink()
    if not Path("/etc/rostersync/config.toml").exists():
        with pytest.raises(ConfigError, match="no configuration"):
            find_config(None, {})


# Mistakes --------------------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_those_between_fields_too(folder: Path) -> None:
    text = """
[sync]
per_page = 400
timeout = "1h"
overlp = "1m"
[schedule]
incremental = "61 * * * *"
timezone = "Mars/Olympus"
[privacy]
exclude = ["email"]
"""
    source = SOURCE + 'token_env = "A"\ntoken_file = "b"\n' + SOURCE.replace("main", "MAIN") + "[synch]\n"
    keys = [line.split(": ")[0] for line in mistakes(folder, text, source=source)]
    assert sorted(keys) == [
        "privacy.exclude",
        "schedule.incremental",
        "schedule.timezone",
        "sources[0]",
        "sources[1].name",
        "sync.overlp",
        "sync.per_page",
        "sync.timeout",
        "synch",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[sync]\nper_page = 0", "sync.per_page: found 0; expected a whole number from 1 to 200"),
        ("[sync]\nper_page = 201", "sync.per_page: found 201; expected a whole number from 1 to 200"),
        ("[sync]\nper_page = '100'", "sync.per_page: found '100'; expected a whole number from 1 to 200"),
        ("[sync]\nper_page = true", "sync.per_page: found true; expected a whole number from 1 to 200"),
        ("[sync]\nconcurrency = 0", "sync.concurrency: found 0; expected a whole number from 1 to 32"),
        ("[sync]\noverlap = 10", 'sync.overlap: found 10; expected a duration from "0s" to "7d", such as "10m"'),
        (
            "[sync]\noverlap = '-5m'",
            'sync.overlap: found \'-5m\'; expected a duration from "0s" to "7d", such as "10m"',
        ),
        ("[sync]\ntimeout = '30m'", 'sync.timeout: found "30m"; expected less than sync.run_deadline ("30m")'),
        ("[sync]\noverlp = '1m'", "sync.overlp: unknown setting; did you mean overlap?"),
        ("[schedule]\nper_page = 1", "schedule.per_page: unknown setting; it belongs in [sync]"),
        ("sync = 5", "sync: found 5; expected a table"),
        (
            "[guard]\nmax_deletion_percent = nan",
            "guard.max_deletion_percent: found nan; expected a number from 0 to 100",
        ),
        ("[guard]\nfloor = 1979-05-27", "guard.floor: found a date or time; expected a whole number from 0 to 1000000"),
        ("[logging]\nlevel = 'loud'", "logging.level: found 'loud'; expected debug, info, warning or error"),
        ("[database]\nauto_upgrade = 1", "database.auto_upgrade: found 1; expected true or false"),
    ],
)
def test_a_mistake_names_key_and_find_and_what_is_expected(folder: Path, text: str, line: str) -> None:
    assert mistakes(folder, text) == [line]


def test_the_token_is_sent_in_one_of_two_ways(folder: Path) -> None:
    (line,) = mistakes(folder, "", source=f"{SOURCE}auth = 'cookie'")
    assert line == 'sources[0].auth: found \'cookie\'; expected "header" or "parameter"'


@pytest.mark.parametrize("source", ["", "sources = []", "[sources]\nname = 'main'", "sources = 'main'"])
def test_without_a_proper_source_the_line_shows_how_one_is_written(folder: Path, source: str) -> None:
    (line,) = mistakes(folder, "", source=source)
    assert line.startswith("sources: ")
    assert "[[sources]], in double brackets" in line


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "é", "x" * 65, "a\n"])
def test_a_source_name_must_do_for_a_file(folder: Path, name: str) -> None:
    source = SOURCE.replace('"main"', repr(name) if "\n" not in name else '"a\\n"')
    assert [line[:15] for line in mistakes(folder, "", source=source)] == ["sources[0].name"]


# What does not exist yet -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[privacy]\nexclude = ['email']", "privacy.exclude: {}; remove it or leave it at its default []"),
        ("[retention]\nruns = '30d'", 'retention.runs: {}; remove it or leave it at its default "90d"'),
        ("[reporting]\ncopy = 'x.db'", 'reporting.copy: {}; remove it or leave it at its default ""'),
        ("[http]\nlisten = '127.0.0.1:1'", 'http.listen: {}; remove it or leave it at its default ""'),
        ("[alerts]\nafter_failures = 1", "alerts.after_failures: {}; remove it or leave it at its default 3"),
    ],
)
def test_a_setting_of_a_feature_to_come_is_refused(folder: Path, text: str, line: str) -> None:
    assert mistakes(folder, text) == [line.format("not available in this version")]


@pytest.mark.parametrize("name", ["include", "pseudonymise", "keep_raw", "key_env", "key_file"])
def test_a_setting_that_will_never_come_is_unknown(folder: Path, name: str) -> None:
    (line,) = mistakes(folder, f"[privacy]\n{name} = 'secret'")
    assert line.startswith(f"privacy.{name}: unknown setting")
    assert "secret" not in line


def test_a_source_may_be_opened_for_writes(folder: Path) -> None:
    assert not read(folder, "").sources[0].allow_writes
    assert read(folder, "", source=SOURCE + "allow_writes = true").sources[0].allow_writes


def test_a_setting_of_a_feature_to_come_may_have_its_default(folder: Path) -> None:
    text = '[privacy]\nexclude = []\n[retention]\nruns = "2160h"\n[reporting]\ncopy = ""\n[alerts]\nafter_failures = 3'
    read(folder, text)


# The database ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "loaded"),
    [
        ("sqlite:///a.db", "sqlite:///{folder}/a.db"),
        ("sqlite:///a b.db", None),
        ("sqlite:///a%20b.db", "sqlite:///{folder}/a%20b.db"),
        ("sqlite:////var/lib/a.db", "sqlite:////var/lib/a.db"),
        ("sqlite:///${DIR}/a.db", "sqlite:////state/a.db"),
        ("sqlite://", None),
        ("sqlite:///", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///file:x?mode=memory", None),
        ("sqlite:///a.db?mode=ro", None),
        ("sqlite://host/a.db", None),
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg://u:${PW}@h:5433/d?sslmode=require", "postgresql+psycopg://u:pw@h:5433/d?sslmode=require"),
        ("postgresql+psycopg:///d?host=%2Frun%2Fpostgresql", "postgresql+psycopg:///d?host=%2Frun%2Fpostgresql"),
        ("postgresql+psycopg2://u@h/d", None),
        ("postgres://u@h/d", None),
        ("mysql://u@h/d", None),
        ("postgresql://u@h:port/d", None),
        ("postgresql://u@h/${MISSING}", None),
        ("roster.db", None),
    ],
)
def test_a_database_url_is_made_complete_or_refused(folder: Path, url: str, loaded: str | None) -> None:
    text, environ = f"[database]\nurl = '{url}'", {"PW": "pw", "DIR": "/state"}
    if loaded:
        assert read(folder, text, environ).database.url == loaded.format(folder=folder)
    else:
        assert [line[:20] for line in mistakes(folder, text, environ)] == ["database.url: found "]


def test_a_missing_variable_is_named(folder: Path) -> None:
    (line,) = mistakes(folder, "[database]\nurl = 'sqlite:///${NO_SUCH}.db'")
    assert "${NO_SUCH}, a variable that is not set" in line


def test_without_the_driver_the_line_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "find_spec", lambda _name: None)
    (line,) = mistakes(folder, "[database]\nurl = 'postgresql://u@h/d'")
    assert "pip install --require-hashes -r requirements.txt" in line


# The API's address -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "loaded"),
    [
        ("https://api.managebac.com/", "https://api.managebac.com"),
        ("HTTPS://API.managebac.CN", "https://api.managebac.cn"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:1/", "http://localhost:1"),
        ("http://[::1]:1", "http://[::1]:1"),
        ("http://api.managebac.com", None),
        ("http://localhost.example.invalid", None),
        ("http://127.0.0.1.example.invalid", None),
        ("https://api.managebac.com/v2p1", None),
        ("https://user@api.managebac.com", None),
        ("https://@api.managebac.com", None),
        ("https://api.managebac.com?a=b", None),
        ("https://api.managebac.com#a", None),
        ("https://api.managebac.com:99999", None),
        ("https://", None),
        ("https://a b", None),
        ("ftp://api.managebac.com", None),
        ("api.managebac.com", None),
    ],
)
def test_an_api_address_is_a_host_reached_safely(folder: Path, given: str, loaded: str | None) -> None:
    source = SOURCE.replace("https://api.managebac.com", given)
    if loaded:
        assert read(folder, "", source=source).sources[0].base_url == loaded
    else:
        assert [line[:26] for line in mistakes(folder, "", source=source)] == ["sources[0].base_url: found"]


# Secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (f"[database]\nurl = 'postgresql://u:{SECRET}@h:x/d'", SOURCE),
        (f"[database]\nurl = 'postgresql://u:{SECRET}/x@h/d'", SOURCE),
        (f"[database]\nurl = 'postgresql://u:1?{SECRET}@h/d'", SOURCE),
        (f"[database]\nurl = 'postgresql://u:@{SECRET}@h/d'", SOURCE),
        (f"[database]\nurl = ['{SECRET}']", SOURCE),
        (f"[database]\nurl = 'mysql://u:{SECRET}@h/d'", SOURCE),
        (f"[alerts]\nping_url = 'https://h/{SECRET}'", SOURCE),
        (f"[alerts]\nurls = ['https://h/{SECRET}']", SOURCE),
        ("", SOURCE + f"token = '{SECRET}'"),
        ("", SOURCE + f"token_env = '{SECRET}'"),
        ("", SOURCE.replace("api.", f"{SECRET}@api.")),
        ("", SOURCE.replace(".com", f".com/?auth_token={SECRET}")),
        (f"[database]\nurl = 'x{SECRET}'\nurl = 'y'", SOURCE),
    ],
)
def test_no_mistake_repeats_a_secret(folder: Path, text: str, source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, source=source)
    error: BaseException | None = caught.value
    while error:
        assert SECRET not in f"{error} {error!r} {error.args}"
        error = error.__cause__ or error.__context__


def test_no_repr_shows_a_password_or_a_variable(folder: Path) -> None:
    config = read(folder, f"[database]\nurl = 'postgresql://user:{SECRET}@h/d?password={SECRET}'")
    assert SECRET in config.database.url
    assert SECRET not in f"{config!r} {config} {config.database!r} {config.database.shown}"
    assert config.database.shown == "postgresql+psycopg://***@h/d?***"


# Tokens ----------------------------------------------------------------------------------------------------------


def token_of(folder: Path, environ: dict[str, str], setting: str = "") -> str:
    return read(folder, "", source=SOURCE + setting).sources[0].token(environ).reveal()


def token_mistake(folder: Path, environ: dict[str, str], setting: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        token_of(folder, environ, setting)
    assert caught.value.hint
    (line,) = caught.value.mistakes
    return line


def test_a_token_is_found_in_the_first_of_four_places(folder: Path) -> None:
    tokens = folder / "tokens"
    tokens.mkdir()
    (folder / "token").write_text("from-file\n")
    environ = {"ROSTERSYNC_TOKEN": "common", "OWN": "own"}

    def found(setting: str = "") -> str:
        text = "tokens_dir = 'tokens'"
        return read(folder, text, source=SOURCE + setting).sources[0].token(environ).reveal()

    assert found() == "common"
    (tokens / "main-token").write_text("from-folder\r\n")
    assert found() == "from-folder"
    assert found("token_env = 'OWN'") == "own"
    assert found("token_file = 'token'") == "from-file"


@pytest.mark.parametrize("setting", ["token_env = 'OWN'", "token_file = 'none'"])
def test_a_place_that_a_source_names_is_the_only_one_for_it(folder: Path, setting: str) -> None:
    (folder / "main-token").write_text("from-folder")
    source = read(folder, "tokens_dir = '.'", source=SOURCE + setting).sources[0]
    with pytest.raises(NotConfigured):
        source.token({"ROSTERSYNC_TOKEN": "common"})


def test_a_token_that_tokens_dir_lacks_is_told_with_the_command_that_stores_it(folder: Path) -> None:
    (source,) = read(folder, "tokens_dir = 'tokens'").sources
    with pytest.raises(NotConfigured) as caught:
        source.token({})
    assert caught.value.mistakes == (f"source main: no token yet: there is no {folder}/tokens/main-token",)
    assert caught.value.hint == "run: rostersync service token main"


def test_a_token_in_tokens_dir_that_cannot_be_used_is_not_passed_over(folder: Path) -> None:
    (folder / "main-token").write_text("a b")
    (source,) = read(folder, "tokens_dir = '.'").sources
    with pytest.raises(ConfigError, match="contains spaces") as caught:
        source.token({"ROSTERSYNC_TOKEN": "common"})
    assert not isinstance(caught.value, NotConfigured)


def test_tokens_dir_behind_a_table_is_told_where_it_belongs(folder: Path) -> None:
    (line,) = mistakes(folder, "", source=SOURCE + "tokens_dir = 'tokens'\n")
    assert line.endswith("unknown setting; it belongs at the beginning of the file, before the first table")


@pytest.mark.parametrize("empty", ["", 'base_url = ""\n'])
def test_a_missing_address_is_told_in_one_line_with_the_file_to_set_it_in(folder: Path, empty: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, "", source=f'[[sources]]\nname = "main"\n{empty}')
    assert caught.value.mistakes == (f"source main: base_url is missing: set it in {folder}/config.toml",)
    assert "https://api.us.managebac.com" in caught.value.hint
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"a b\n", b" ab", b"a\nb", b"a\x00b", b"\xff\xfe", "ä".encode(), b"x" * 5000]
)
def test_what_cannot_be_a_token_is_refused_without_showing_it(folder: Path, content: bytes) -> None:
    (folder / "token").write_bytes(content)
    line = token_mistake(folder, {}, "token_file = 'token'")
    assert line.startswith("source main: ")
    assert "x" * 100 not in line


def test_a_token_file_that_is_missing_or_none_is_named(folder: Path) -> None:
    assert f"cannot read {folder}/none: No such file" in token_mistake(folder, {}, "token_file = 'none'")
    assert "Is a directory" in token_mistake(folder, {}, "token_file = '.'")


def test_a_pipe_in_the_place_of_a_token_file_does_not_block(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert "is empty" in token_mistake(folder, {}, "token_file = 'pipe'")


def test_a_missing_variable_is_named_unless_it_may_be_the_token_itself(folder: Path) -> None:
    assert "ROSTERSYNC_TOKEN is not set, or is empty" in token_mistake(folder, {"ROSTERSYNC_TOKEN": ""})
    assert "OTHER is not set" in token_mistake(folder, {}, "token_env = 'OTHER'")
    assert "f00dcafe" not in token_mistake(folder, {}, "token_env = 'f00dcafe'")


@pytest.mark.parametrize("key", ["token_file", "token_env", "token", "api_version"])
def test_a_token_that_was_pasted_in_a_wrong_place_is_not_repeated(folder: Path, key: str) -> None:
    source = SOURCE + f"{key} = '{TOKEN}'"
    with pytest.raises(ConfigError) as caught:
        read(folder, "", source=source).sources[0].token({})
    assert TOKEN not in f"{caught.value} {caught.value.hint}"
    assert key in str(caught.value)


def test_a_token_that_was_pasted_behind_the_address_is_not_repeated(folder: Path) -> None:
    for rest in (f"/{TOKEN}", f"/v2p1/{TOKEN}", f"/?auth_token={TOKEN}", f"/#{TOKEN}"):
        (line,) = mistakes(folder, "", source=SOURCE.replace("managebac.com", f"managebac.com{rest}"))
        assert TOKEN not in line


@pytest.mark.parametrize(
    ("text", "setting"), [("", "token_file = 'main-token'"), ("tokens_dir = '.'", "")], ids=["token_file", "tokens_dir"]
)
def test_a_token_file_that_others_can_read_is_warned_about(
    folder: Path, text: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "main-token"
    path.write_text("abc")
    source = read(folder, text, source=SOURCE + setting).sources[0]
    path.chmod(0o600)
    assert source.token_warnings() == []
    path.chmod(0o640)
    (line,) = source.token_warnings()
    assert f"others can read {path} (mode 0640); run: chmod 600" in line
    monkeypatch.setattr("rostersync.config.token.service_group", lambda: path.stat().st_gid)
    assert source.token_warnings() == []  # the service's own group
    path.chmod(0o644)
    assert len(source.token_warnings()) == 1
    path.unlink()
    assert source.token_warnings() == []


# Warnings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[schedule]\nincremental = '15m'", "schedule.incremental"),
        ("[schedule]\nincremental = '*/15 * * * *'", "schedule.incremental"),
        ("[schedule]\nfull = '30m'", "schedule.full"),
        ("[schedule]\njitter = '1h'", "schedule.jitter"),
        ("[sync]\noverlap = '59s'", "sync.overlap"),
        ("[sync]\nmax_age = '1h'", "sync.max_age"),
        ("[guard]\nmax_deletions = 2", "guard.floor"),
    ],
)
def test_what_is_allowed_but_unwise_is_warned_about(folder: Path, text: str, key: str) -> None:
    assert [line.split(": ")[0] for line in warnings(read(folder, text))] == [key]


@pytest.mark.parametrize(
    "text", ["[schedule]\nincremental = '0 * * * *'", "[guard]\nmax_deletions = 0", "[sync]\noverlap = '1m'"]
)
def test_what_is_right_is_not_warned_about(folder: Path, text: str) -> None:
    assert warnings(read(folder, text)) == []


@pytest.mark.parametrize("setting", ["", "token_env = 'SAME'\n"])
def test_sources_that_share_a_token_are_warned_about(folder: Path, setting: str) -> None:
    source = SOURCE + setting + SOURCE.replace("main", "other") + setting
    assert len(warnings(read(folder, "", source=source))) == 1
    assert len(warnings(read(folder, "tokens_dir = 'tokens'", source=source))) == (1 if setting else 0)


# Durations and cron lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("7d", 604800), ("1d1s", 86401), ("0s", 0)]
)
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert parse_duration(spell_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "1.5h", "-1m", "30m1h", "1h 30m", "1H", "٣m", "9" * 12 + "d", "10m\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("line", "weekdays"),
    [("0 2 * * 0", "sun"), ("0 2 * * 7", "sun"), ("0 2 * * 1-5", "mon,tue,wed,thu,fri"), ("0 2 * * SUN,3", "sun,wed")],
)
def test_weekdays_are_crons_and_not_the_schedulers(line: str, weekdays: str) -> None:
    assert Cron(line).fields()["day_of_week"] == weekdays


@pytest.mark.parametrize(
    "line",
    [
        "* * * * *",
        "*/5 * * * *",
        "0 2 * * *",
        "5/20 8-17/3 1,15 jan-mar *",
        "0 0 29 2 *",
        "59 23 31 * *",
        "0 2 * * 5-7",
    ],
)
def test_a_cron_line_suits_the_scheduler(line: str) -> None:
    CronTrigger(**Cron(line).fields(), timezone="UTC")


@pytest.mark.parametrize(
    "line",
    """
    0 2 * *
    0 2 * * * *
    60 * * * *
    * 24 * * *
    0 0 0 * *
    0 0 * 13 *
    0 0 * * 8
    0 0 30 2 *
    0 0 31 4,6 *
    0 0 1 * 1
    */0 * * * *
    5-1 * * * *
    -5 * * * *
    , * * * *
    a * * * *
    @daily x
    @reboot
    */90 * * * *
    0 2 L * *
    """.strip().split("\n"),
)
def test_what_is_no_cron_line_or_never_comes_is_refused(folder: Path, line: str) -> None:
    assert [text[:20] for text in mistakes(folder, f"[schedule]\nfull = '{line}'")] == ["schedule.full: found"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("61 * * * *", """found '61' as the minute; expected 0 to 59, such as "30", "0,30", "10-40" or "*/15\""""),
        ("0 24 * * *", """found '24' as the hour; expected 0 to 23, such as "2", "8,20", "8-17" or "*/6\""""),
        ("0 2 32 * *", """found '32' as the day of the month; expected 1 to 31, such as "1", "1,15" or "1-7\""""),
        (
            "0 2 * 0 *",
            """found '0' as the month; expected 1 to 12 or jan to dec, such as "9", "jan,jul" or "jan-jun\"""",
        ),
        (
            "0 2 * * 8",
            """found '8' as the day of the week; expected 0 to 7 or sun to sat, such as "sun", "sat,sun" or \"""",
        ),
        ("0 2 * * Monday", "found 'monday' as the day of the week; expected 0 to 7 or sun to sat, "),
        ("0 2 * mon *", "found 'mon' as the month, which is a day of the week; expected 1 to 12 or jan to dec, "),
        ("0 2 * * jan", "found 'jan' as the day of the week, which is a month; expected 0 to 7 or sun to sat, "),
        ("0 2 mon-fri * *", "found 'mon' as the day of the month, which is a day of the week; expected 1 to 31, "),
        ("0 2 L * *", "found 'l' as the day of the month, but L, W and # are not supported; expected 1 to 31, "),
        (
            "0 2 15W * *",
            "found '15w' as the day of the month, but L, W and # are not supported; expected 1 to 31",
        ),
        ("0 2 * * 5L", "found '5l' as the day of the week, but L, W and # are not supported; expected 0 to 7"),
        ("0 2 * * mon#1", "found 'mon#1' as the day of the week, but L, W and # are not supported; expected 0"),
        ("0 2 ? * 1", """found '?' as the day of the month, which is not supported; expected "*\""""),
        ("0 22-2 * * *", """found '22-2' as the hour, a range that runs backward; expected two ranges: "22-23,0-2\""""),
        ("0 2 * * sat-sun", """a range that runs backward; expected two ranges: "6-7,0\""""),
        ("*/90 * * * *", """found '*/90' as the minute, a step of 90; expected a step from 1 to 59, such as "*/2\""""),
        ("0,,30 2 * * *", "found nothing as the minute; expected 0 to 59, "),
        ("0 2 30 2 *", "found day '30' of month '2', which never comes; expected a day that the month has"),
        (
            "0 2 1 * mon",
            """found both a day of the month ('1') and a day of the week ('mon'); expected "*" as one of them""",
        ),
        (
            "0 0 2 * * *",
            "found six fields (the first one would be the seconds); expected five fields (minute, hour, ",
        ),
        (
            "0 0 2 * * *",
            """month, day of the week), such as "0 2 * * *\"""",
        ),
        (
            "0 2 * *",
            """found 4 fields; expected five fields (minute, hour, day of the month, month, day of the week), """,
        ),
        ("1h 30m", """such as "0 2 * * *", or an interval such as "1h30m\""""),
        (
            "@daily",
            """found '@daily'; expected five fields (minute, hour, day of the month, month, day of the week), """,
        ),
        ("@weekly", """such as "0 0 * * 0\""""),
        ("@every 1h", """found '@every'; expected five fields"""),
    ],
)
def test_a_mistake_in_a_cron_line_names_the_field_and_the_find_and_what_is_allowed_there(
    folder: Path, line: str, told: str
) -> None:
    (mistake,) = mistakes(folder, f"[schedule]\nincremental = '{line}'")
    assert told in mistake
    assert mistake.startswith("schedule.incremental: found ")


@pytest.mark.parametrize("line", [f"0 {TOKEN} * * *", f"@{TOKEN}", f"@{TOKEN} 2 * * *"])
def test_a_token_that_was_pasted_into_a_cron_line_is_not_repeated(folder: Path, line: str) -> None:
    (mistake,) = mistakes(folder, f"[schedule]\nfull = '{line}'")
    assert TOKEN[:10].lower() not in mistake.lower()


# Cost ------------------------------------------------------------------------------------------------------------


def test_loading_needs_neither_the_database_nor_the_network_nor_the_scheduler() -> None:
    code = "import sys, rostersync.config; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"sqlalchemy", "alembic", "requests", "urllib3", "apscheduler", "psycopg", "rich"} & set(loaded)
    assert re.search(r"\brostersync\.config\b", " ".join(loaded))
