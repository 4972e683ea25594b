"""Chats: what the messages say, that text from GitLab stays text, and that every chat's limits are kept."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.config.load import ConfigError, load
from reconciler.events import times
from reconciler.events.alerts import alert_sighting
from reconciler.events.times import Millis
from reconciler.events.webhook_sighting import summarise
from reconciler.forwarding.chat.markup import BREAK
from reconciler.forwarding.chat.presets import request
from reconciler.forwarding.chat.saying import Said, said
from reconciler.forwarding.filters import facts
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import attempt
from reconciler.forwarding.kinds.http import Http, HttpDestination
from reconciler.forwarding.message import Message
from reconciler.forwarding.retry import LONGEST_RETRY_AFTER
from reconciler.ledger.queue.deliveries import Outgoing
from reconciler.simulator.consumer import Consumer
from tests.conftest import MakeService
from tests.e2e.test_delivery import states
from tests.support.service import until

BODIES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[2] / "data/documented.json").read_text())
PRESETS = ("slack", "mattermost", "teams", "discord")
BAD = (
    "<!channel> @everyone @all **bold** `code` ```\n# [x](https://evil.example) <@42> ~town "
    "<at>Ada</at> :boom: {{DATE(1)}}"
)


def told(name: str, /, **more: Any) -> Said:
    body = BODIES[name] | more
    return said(facts(summarise(body, None), "x"), body)


def merge_request(title: str) -> dict[str, Any]:
    body = BODIES["merge_request"]
    return body | {"object_attributes": body["object_attributes"] | {"title": title, "action": "merge"}}


def destination(preset: str, url: str = "https://chat.example.com/hooks/secret", **more: Any) -> HttpDestination:
    keys = {"name": "chat", "url": url, "preset": preset, "allow_private": True}
    return HttpDestination.model_validate(keys | more)


def message(one: HttpDestination, body: dict[str, Any]) -> Message:
    headers = {"X-Gitlab-Instance": "https://gitlab.internal", "Content-Type": "application/json"}
    event = Outgoing(1, "2026-11-24T10:00:00.000Z", "x", 1, None, headers, json.dumps(body), summarise(body, 50))
    with closing(Formatter(one, event_id=lambda n: f"evt_{n}", gitlab_url="https://gitlab.example.com")) as formatter:
        return formatter.message(event, attempt=1, now=times.now())


def shown(preset: str, sent: dict[str, Any]) -> str:
    """What people see, by each chat's rules for escapes."""
    if preset == "slack":
        texts = [block["text"]["text"] for block in sent["blocks"] if block["text"]["type"] == "plain_text"]
        return "\n".join(texts).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    if preset == "teams":
        blocks = sent["attachments"][0]["content"]["body"]
        return "\n".join(run["text"] for block in blocks for run in block["inlines"]).replace(BREAK, "")
    text = str(sent["text" if preset == "mattermost" else "content"]).split("\n[Open in GitLab]")[0]
    return re.sub(r"\\([^0-9A-Za-z\s])", r"\1", text.replace("\n> ", "\n")).replace(BREAK, "")


class TestSaying:
    @pytest.mark.parametrize(
        ("name", "headline", "text", "page"),
        [
            ("push", "acme/site: Ada Lovelace pushed 1 commit to branch main", "Mend it", "/-/commit/" + "b" * 40),
            ("tag_push", "acme/site: Ada Lovelace created tag v1", "", "/-/tags/v1"),
            ("issue", "acme/site: Ada Lovelace opened issue #23", "Slow pages", "/-/issues/23"),
            (
                "merge_request",
                "acme/site: Ada Lovelace approved merge request !1 (fast → main)",
                "Faster",
                "/-/merge_requests/1",
            ),
            ("note", "acme/site: Ada Lovelace edited a comment on issue #23", "Looks good\nto me", ""),
            ("pipeline", "acme/site: pipeline #31 passed on main (Ada Lovelace)", "Deploy", "/-/pipelines/31"),
            ("build", "acme/site: job test of pipeline #31 failed on main (Ada Lovelace)", "", "/-/jobs/1977"),
            ("release", "acme/site: release v1.1 was created", "", "/-/releases/v1.1"),
            ("user_add_to_team", "acme/site: Grace Hopper was added as Developer", "", None),
        ],
    )
    def test_it_says_who_did_what_where(self, name: str, headline: str, text: str, page: str | None) -> None:
        url = "" if page is None else f"https://gitlab.example.com/acme/site{page}"
        assert told(name) == Said(headline, text, url)

    def test_a_branch_comes_and_goes(self) -> None:
        assert "deleted branch main" in told("push", after="0" * 40).headline
        assert "created branch main" in told("push", before="0" * 40).headline
        many = told("push", total_commits_count=7)
        assert "pushed 7 commits to branch main" in many.headline
        assert many.url.endswith(f"/-/compare/{'a' * 40}...{'b' * 40}")

    @pytest.mark.parametrize("name", BODIES)
    def test_every_kind_is_a_sentence(self, name: str) -> None:
        made = told(name)
        assert made.headline.strip(" :")
        assert not re.search(r"None|True|[{}]|  |\b[a-z]+_[a-z]+\b|[#!]\B$", made.headline)

    def test_an_unknown_kind_too(self) -> None:
        body = {"object_kind": "moon_phase", "object_attributes": {"action": "wax", "title": "Half"}, "project": []}
        assert said(facts(summarise(body, None), "x"), body) == Said("moon phase: wax", "Half")

    @pytest.mark.parametrize("state", ["opened", "over"])
    def test_an_alert_too(self, state: Any) -> None:
        at = Millis(0)
        one = alert_sighting(
            what="destination_down", subject="audit", state=state, text="audit is down", since=at, at=at
        )
        made = said(facts(one.summary, "x"), json.loads(one.payload))
        word = "alert" if state == "opened" else "over"
        assert made == Said(f"gitlab-reconciler: {word}: destination down (audit)", "audit is down")

    @settings(max_examples=20)
    @given(
        st.sampled_from(sorted(BODIES)),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c, max_size=2)),
    )
    def test_no_body_is_too_strange(self, name: str, strange: Any) -> None:
        for key in BODIES[name]:
            if key not in ("object_kind", "event_name"):
                assert told(name, **{key: strange}).headline


class TestEscaping:
    @pytest.mark.parametrize("preset", PRESETS)
    @settings(max_examples=30)
    @given(text=st.text(st.characters(codec="utf-8") | st.sampled_from("\\`*_~|<>&@#:[]()!{}-+=1. \n"), max_size=60))
    @example(text=BAD)
    @example(text="1. - + = # > &lt; \\* www")
    def test_people_see_what_was_written(self, preset: str, text: str) -> None:
        sent = request(preset, Said("who", text))
        wanted = " ".join(
            re.sub(
                "[^\\S ]|[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]", " ", text
            ).split()
        )
        assert shown(preset, sent) == f"who\n{wanted}".strip()

    def test_slack_gets_no_control_characters_and_no_markup_but_our_link(self) -> None:
        sent = request("slack", Said(BAD, BAD, "https://gitlab.example.com/a?b=1&c=<!channel>|x"))
        assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", sent["text"])
        title, link = sent["blocks"]
        assert title["text"]["type"] == "plain_text"
        assert link["text"] == {
            "type": "mrkdwn",
            "text": "<https://gitlab.example.com/a?b=1&amp;c=%3C!channel%3E%7Cx|Open in GitLab>",
            "verbatim": True,
        }

    def test_mattermost_gets_no_mention_and_no_markdown(self) -> None:
        sent = request("mattermost", Said(BAD, BAD, "https://gitlab.example.com/a)b"))
        head, quoted, link = sent["text"].split("\n")
        assert link == "[Open in GitLab](https://gitlab.example.com/a%29b)"
        for line in (head, quoted.removeprefix("> ")):
            assert not re.search(r"[@#~]\w|:(?=[\w/])|(?<!\\)[`*_\[\]|~]", line)

    @pytest.mark.parametrize("host", ["www.evil.example", "WWW.evil.example", "www3.evil.example"])
    def test_mattermost_makes_no_link_of_a_host(self, host: str) -> None:
        text = f"see {host}/login"
        sent = request("mattermost", Said(text, text, "https://gitlab.example.com/a"))
        assert not re.search(r"(?i)www\d{0,3}\.", sent["text"])
        assert shown("mattermost", sent) == f"{text}\n{text}"

    def test_discord_mentions_nobody(self) -> None:
        sent = request("discord", Said(BAD, BAD, "https://gitlab.example.com/a"))
        assert (sent["allowed_mentions"], sent["flags"]) == ({"parse": []}, 4)
        head, quoted, link = sent["content"].split("\n")
        assert link == "[Open in GitLab](<https://gitlab.example.com/a>)"
        for line in (head, quoted.removeprefix("> ")):
            assert not re.search(r"(?<!\\)[`*_\[\]|~<>@#:]", line.replace("\\\\", ""))

    def test_teams_gets_runs_without_markdown(self) -> None:
        sent = request("teams", Said(BAD, BAD, "https://gitlab.example.com/a"))
        [card] = sent["attachments"]
        assert (sent["type"], card["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
        blocks = card["content"]["body"]
        assert {block["type"] for block in blocks} == {"RichTextBlock"}
        assert all("{{" not in run["text"] for block in blocks for run in block["inlines"])
        assert card["content"]["actions"] == [
            {"type": "Action.OpenUrl", "title": "Open in GitLab", "url": "https://gitlab.example.com/a"}
        ]

    @pytest.mark.parametrize("url", ["javascript:alert(1)", "data:x", "", "https://x/" + "a" * 500])
    @pytest.mark.parametrize("preset", PRESETS)
    def test_a_link_that_is_none_is_left_out(self, preset: str, url: str) -> None:
        assert "Open in GitLab" not in json.dumps(request(preset, Said("who", "what", url)))


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=20)
@given(st.sampled_from(["a", "*", "&", "\U0001f600", "{", "\u00e9", "_@", "\\"]), st.integers(1001, 20_000))
@example("*", 20_000)
@example("&", 20_000)
@example("\U0001f600", 20_000)
def test_every_chat_s_limit_is_kept(preset: str, what: str, times_: int) -> None:
    sent = request(preset, Said(what * times_, what * times_, "https://gitlab.example.com/" + "a" * 450))
    units = {
        "slack": lambda: max(len(block["text"]["text"].encode("utf-16-le")) // 2 for block in sent["blocks"]),
        "mattermost": lambda: len(sent["text"].encode("utf-16-le")) // 2,
        "discord": lambda: len(sent["content"].encode("utf-16-le")) // 2,
        "teams": lambda: len(json.dumps(sent).encode()),
    }[preset]()
    assert units <= {"slack": 3000, "mattermost": 4000, "discord": 2000, "teams": 28 * 1024}[preset]
    assert "Open in GitLab" in json.dumps(sent)
    text = shown(preset, sent)
    assert text.endswith("…")
    assert set(text) <= {*what, "…", "\n"}  # no escape was cut in the middle


ANSWERS: dict[str, tuple[tuple[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes], int]] = {
    "slack": ((200, {}, b"ok"), (429, {"Retry-After": "30"}, b"rate_limited"), 30_000),
    "mattermost": ((200, {}, b"ok"), (429, {"Retry-After": "1"}, b"limit exceeded"), 1000),
    "teams": ((202, {}, b""), (429, {"Retry-After": "10"}, b"{}"), 10_000),
    "discord": ((204, {}, b""), (429, {}, b'{"message": "x", "retry_after": 64.57, "global": false}'), 64_570),
}


@pytest.mark.parametrize("preset", PRESETS)
async def test_what_the_chat_answers(preset: str) -> None:
    accepts, busy, pause = ANSWERS[preset]
    with Consumer() as consumer:
        one = destination(preset, consumer.url)
        kind = Http(one)
        consumer.answer = lambda _headers, _body: accepts
        assert (await attempt(kind, message(one, merge_request(BAD)), timeout_s=5)).accepted
        [got] = consumer.requests
        assert json.loads(got.body) == request(preset, told("merge_request", **merge_request(BAD)))
        assert got.headers["content-type"] == "application/json"
        assert "x-gitlab-instance" not in got.headers
        consumer.answer = lambda _headers, _body: busy
        answer = await attempt(kind, message(one, BODIES["push"]), timeout_s=5)
        assert (answer.status, answer.rejected, answer.retry_after) == (429, False, pause)
        await kind.close()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"no JSON", b'{"retry_after": true}', b'{"retry_after": "soon"}', b"{}"]
)
async def test_discord_may_not_say_how_long(body: bytes) -> None:
    with Consumer() as consumer:
        one = destination("discord", consumer.url)
        kind = Http(one)
        consumer.answer = lambda _headers, _body: (429, {}, body)
        assert (await attempt(kind, message(one, BODIES["push"]), timeout_s=5)).retry_after == 0
        consumer.answer = lambda _headers, _body: (429, {}, b'{"retry_after": 1e300}')
        assert (await attempt(kind, message(one, BODIES["push"]), timeout_s=5)).retry_after <= LONGEST_RETRY_AFTER
        await kind.close()


class TestConfig:
    def loaded(self, tmp_path: Path, **keys: Any) -> HttpDestination:
        file = tmp_path / "config.yaml"
        one = {"name": "chat", "url": "https://chat.example.com/hooks/secret", **keys}
        file.write_text(yaml.safe_dump({"receiver": {"hooks": [{"token": "t"}]}, "destinations": [one]}))
        [found] = load(file, {}).destinations
        assert isinstance(found, HttpDestination)
        return found

    @pytest.mark.parametrize(
        ("keys", "told"),
        [
            (
                {"preset": "slack", "format": "cloudevents"},
                "destinations[0].format: `preset: slack` makes the message",
            ),
            ({"preset": "teams", "transform": {"fields": ["a"]}}, "transform: `preset: teams` makes the message"),
            ({"preset": "discord", "batch": {"max": 9}}, "batch: `preset: discord` makes the message"),
            ({"preset": "irc"}, "preset: should be one of slack, mattermost, teams, discord"),
        ],
    )
    def test_what_would_replace_the_message_is_refused(self, tmp_path: Path, keys: Any, told: str) -> None:
        with pytest.raises(ConfigError) as raised:
            self.loaded(tmp_path, **keys)
        assert told in str(raised.value)

    def test_what_is_written_beside_it_wins(self, tmp_path: Path) -> None:
        assert self.loaded(tmp_path, preset="slack").rate_limit == 1
        assert self.loaded(tmp_path, preset="mattermost").rate_limit is None
        assert self.loaded(tmp_path, preset="slack", rate_limit="5/s").rate_limit == 5
        assert self.loaded(tmp_path).rate_limit is None
        made = self.loaded(tmp_path, preset="slack", headers={"content-type": "text/x", "X-Key": "k"})
        headers = Http(made).headers(message(made, BODIES["push"]))
        assert {name.lower(): value for name, value in headers.items()}["content-type"] == "text/x"
        assert headers["X-Key"] == "k"

    def test_the_address_is_a_secret(self) -> None:
        assert Http(destination("slack")).address == "https://chat.example.com/…"


def test_failed_pipelines_on_main_come_to_the_chat(make_service: MakeService, consumer: Consumer) -> None:
    only = {"kinds": ["pipeline"], "actions": ["failed"], "branches": ["main"]}
    one = {"name": "chat", "url": consumer.url, "allow_private": True, "preset": "mattermost", "filter": only}
    service = make_service(destinations=[one]).start()
    for number, (status, ref) in enumerate([("success", "main"), ("failed", "x"), ("failed", "main")]):
        body = BODIES["pipeline"]
        facts_ = body["object_attributes"] | {"id": number, "status": status, "ref": ref, "name": "*Deploy*"}
        assert service.post(json.dumps(body | {"object_attributes": facts_}).encode()).status_code == 200
    until(lambda: [state for state, *_ in states(service)] == ["delivered"])
    [got] = consumer.accepted
    assert json.loads(got.body) == {
        "text": "acme/site:" + " pipeline \\#" + BREAK + "2 failed on main (Ada Lovelace)\n> \\*Deploy\\*\n"
        "[Open in GitLab](https://gitlab.example.com/acme/site/-/pipelines/2)"
    }
    tried = service.run("destinations", "test", "chat", "--send")
    assert tried.returncode == 0, tried.stderr
    assert "nothing happened in GitLab" in json.loads(consumer.accepted[-1].body)["text"]
