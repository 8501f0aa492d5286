"""OpenAI's chat completions over HTTP: complete in themselves, and about a session's stream."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from videochat_online import MemoryConfig, StreamingSession
from videochat_online.serve.client import Client
from videochat_online.serve.completions import up_to_stop
from videochat_online.serve.track import DialogueTurn

CHAT = "/v1/chat/completions"
RETRY = "X-Stainless-Retry-Count"


def user(*parts) -> dict:
    """A message of texts and addresses of pictures."""
    kinds = {"data:image": "image_url", "http://": "image_url", "data:video": "video_url"}
    content = []
    for part in parts:
        kind = next((name for start, name in kinds.items() if part.startswith(start)), "text")
        content.append({"type": kind, kind: part if kind == "text" else {"url": part}})
    return {"role": "user", "content": content}


def post(server, body: dict, path: str = CHAT, **headers: str) -> SimpleNamespace:
    """Status, headers and document of a request that may fail."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return SimpleNamespace(status=response.status, headers=response.headers, text=text)


def said(server, *messages, path: str = CHAT, **options) -> str:
    answer = post(server, {"model": "pocket", "messages": list(messages), "max_tokens": 8, **options}, path)
    assert answer.status == 200, answer.text
    return json.loads(answer.text)["choices"][0]["message"]["content"]


def test_a_request_is_complete_in_itself(serve, pocket, picture, data_uri):
    server = serve()
    question = user(data_uri(1), data_uri(2), "What is happening?")
    first = said(server, question)
    assert said(server, question) == first and len(server.sessions) == 0
    session = StreamingSession(*pocket, memory=MemoryConfig.recent(2), timestamps=False)
    session.see_many([picture(1), picture(2)], [0.0, 1.0])
    assert first == session.ask("What is happening?", max_new_tokens=8)
    follow = said(server, question, {"role": "assistant", "content": first}, user(data_uri(3), "And now?"))
    three = StreamingSession(*pocket, memory=MemoryConfig.recent(3), timestamps=False)
    three.see_many([picture(1), picture(2)], [0.0, 1.0])
    three.ask("What is happening?", max_new_tokens=8)
    three.see(picture(3), 2.0)
    assert follow == three.ask("And now?", max_new_tokens=8)


def test_frame_lines_of_our_own_prompts_are_kept(serve, pocket, picture, data_uri):
    """As `videochat-online eval --endpoint` writes them: the prompt is the one of a session, token for token."""
    parts: list[str] = []
    for k in range(40):
        parts += [f"Frame{k + 1} at {k / 2:.1f}s: ", data_uri(k), "\n"]
    answer = post(serve(), {"model": "pocket", "messages": [user(*parts, "What is happening?")], "max_tokens": 8})
    document = json.loads(answer.text)
    session = StreamingSession(*pocket)
    session.see_many([picture(k) for k in range(40)], [k / 2 for k in range(40)])
    assert document["choices"][0]["message"]["content"] == session.ask("What is happening?", max_new_tokens=8)
    assert document["usage"]["prompt_tokens"] == session.stats()["prompt_tokens"]


def test_pictures_of_one_request_take_no_more_memory_than_a_video(serve, monkeypatch, data_uri):
    server = serve()
    monkeypatch.setattr("videochat_online.serve.content.MOST_PIXELS", 3 * 48 * 64)
    assert said(server, user(*map(data_uri, range(3)), "What?"))
    bad = post(server, {"model": "pocket", "messages": [user(*map(data_uri, range(4)), "What?")]})
    assert bad.status == 413 and "pixels together" in bad.text


def test_what_an_answer_holds_can_be_sent_back(serve):
    """Clients send the message they got as they hold it, with its nulls."""
    server, nothing = serve(), {"refusal": None, "tool_calls": None, "function_call": None, "audio": None}
    said(server, user("A"), {"role": "assistant", "content": "B", **nothing}, user("C"), reasoning_effort=None)
    bad = post(server, {"model": "pocket", "messages": [{**user("A"), "tool_calls": []}]})
    assert bad.status == 400 and "tool_calls" in bad.text


def test_words_without_a_picture_and_all_roles(serve, pocket):
    server = serve()
    alone = said(server, {"role": "user", "content": "Hello"})
    assert alone == StreamingSession(*pocket).ask("Hello", max_new_tokens=8, without_frames=True)
    instructed = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Really."}]},
    ]
    session = StreamingSession(*pocket, system_prompt="Be brief.\nReally.")
    told = said(server, *instructed, {"role": "user", "content": "Hello"})
    assert told == session.ask("Hello", max_new_tokens=8, without_frames=True)


def test_a_named_session_remembers(serve, data_uri):
    server, path = serve(), "/s/door-1/v1/chat/completions"
    first = said(server, user(data_uri(1), "What is happening?"), path=path)
    history = [user(data_uri(1), "What is happening?"), {"role": "assistant", "content": first}]
    said(server, *history, user(data_uri(2), "And now?"), path=path)
    (session,) = server.sessions._sessions.values()
    assert session.session.stats()["frames_seen"] == 2 and len(session.session.turns) == 2
    assert session.key != "door-1", "a name is no key to the pictures"
    # the same through X-Session and through our own routes
    said(server, user("And before?"), session=session.key)
    assert Client(server.address).call("GET", f"/v1/sessions/{session.key}")["questions"] == 3
    assert said(server, user(data_uri(1), "Hello"), path="/s/door-2/v1/chat/completions") and len(server.sessions) == 2
    bad = post(server, {"model": "pocket", "messages": [user("Hi")]}, "/s/a%20b/v1/chat/completions")
    assert bad.status == 400 and "a session's name" in bad.text


def test_a_repeated_request_shows_its_picture_once(serve, data_uri):
    server, path = serve(), "/s/door/v1/chat/completions"
    body = {"model": "pocket", "messages": [user(data_uri(1), "What?")], "max_tokens": 1}
    for count in ("0", "1", "2"):
        assert post(server, body, path, **{"X-Stainless-Retry-Count": count}).status == 200
    assert server.sessions.named("door").session.stats()["frames_seen"] == 1
    assert post(server, body, path).status == 200
    assert server.sessions.named("door").session.stats()["frames_seen"] == 2


def test_a_repeat_that_comes_while_its_first_try_is_seen_shows_nothing_twice(serve, data_uri, monkeypatch, wait_until):
    server, path, statuses = serve(), "/s/door/v1/chat/completions", []
    session, goes_on, seen = server.sessions.named("door"), threading.Event(), []
    see_all = session._see_all

    def slow(images, seconds):
        seen.extend(images)
        assert goes_on.wait(60)
        return see_all(images, seconds)

    monkeypatch.setattr(session, "_see_all", slow)
    body = {"model": "pocket", "messages": [user(data_uri(1), data_uri(2), "What?")], "max_tokens": 1}
    tries = [
        threading.Thread(target=lambda n=n: statuses.append(post(server, body, path, **{RETRY: n}).status))
        for n in "01"
    ]
    tries[0].start()
    wait_until(lambda: seen)
    tries[1].start()
    assert post(server, body, "/v1/nothing").status == 404, "others are answered"
    goes_on.set()
    for one in tries:
        one.join(60)
    assert statuses == [200, 200] and len(seen) == session.session.stats()["frames_seen"] == 2


def test_questions_that_wait_hold_no_thread_and_those_beyond_the_queue_are_told_when_to_come(
    serve, monkeypatch, wait_until
):
    """A health check of a proxy must not fail because people ask."""
    server, goes_on = serve(token="open", max_questions=40), threading.Event()
    key = {"Authorization": "Bearer open"}
    session = server.sessions.named("door")
    ask = session.ask

    def slow(*arguments, **named):
        assert goes_on.wait(60)
        return ask(*arguments, **named)

    monkeypatch.setattr(session, "ask", slow)
    body, statuses = {"model": "pocket", "messages": [user("What?")], "max_tokens": 1}, []
    path, before = "/s/door/v1/chat/completions", threading.active_count()
    asking = [
        threading.Thread(target=lambda: statuses.append(post(server, body, path, **key).status)) for _ in range(40)
    ]
    for one in asking:
        one.start()
    wait_until(lambda: server.sessions.turns.num_entered == 40 and server.sessions.turns.num_held == 1)
    assert threading.active_count() - before - 40 <= 10, "one is being answered; the threads of the others are its own"
    refused = post(server, body, path, **key)
    assert refused.status == 429 and int(refused.headers["Retry-After"]) >= 1
    client = Client(server.address, token="open")
    assert client.call("GET", "/v1/models")["data"] and client.call("GET", "/v1/models/pocket")
    assert client.call("GET", f"/v1/sessions/{session.key}")["questions"] == 0
    goes_on.set()
    for one in asking:
        one.join(60)
    assert statuses == [200] * 40 and server.sessions.turns.num_entered == 0


def test_a_client_that_leaves_ends_an_answer_that_is_not_streamed(serve, monkeypatch, wait_until):
    server, left, saying = serve(), [], []

    def endless(run):
        try:
            while True:
                saying.append(True)
                yield "and so on "
        finally:
            left.append(True)

    for path in (CHAT, "/s/door/v1/chat/completions"):
        module = "serve.completions" if path == CHAT else "streaming.session"
        monkeypatch.setattr(f"videochat_online.{module}.stream_pieces", endless)
        connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
        body = json.dumps({"model": "pocket", "messages": [user("What?")]}).encode()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        wait_until(lambda: saying)
        connection.close()
        wait_until(lambda: left)
        del left[:], saying[:]


def test_a_system_message_changes_a_session_and_keeps_its_memory(serve, data_uri):
    server, path = serve(), "/s/door/v1/chat/completions"
    said(server, user(data_uri(1), "What?"), path=path)
    said(server, {"role": "system", "content": "Be brief."}, user("And now?"), path=path)
    session = server.sessions.named("door").session
    assert session.system_prompt == "Be brief." and session.stats()["frames_seen"] == 1 and len(session.turns) == 2


@pytest.mark.parametrize("path", [CHAT, "/s/door/v1/chat/completions"])
def test_streams_as_openai_does(path, serve, data_uri):
    server = serve()
    body = {"model": "pocket", "messages": [user(data_uri(1), "What?")], "max_tokens": 1, "stream": True}
    answer = post(server, body | {"stream_options": {"include_usage": True}}, path)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 1
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == said(serve(), user(data_uri(1), "What?"), max_tokens=1, path=path)


def test_answers_are_drawn_where_a_temperature_is_given(serve, data_uri):
    server = serve()
    ask = lambda **options: said(server, user(data_uri(1), "What is happening?"), max_tokens=16, **options)  # noqa: E731
    greedy = ask()
    assert ask(temperature=1e-300) == ask(temperature=1e-40) == greedy
    assert ask(temperature=0, seed=7) == greedy and ask(temperature=2, top_p=1e-9) == greedy
    drawn = [ask(temperature=2, seed=seed) for seed in range(6)]
    assert len(set(drawn)) > 3 and drawn == [ask(temperature=2.0, seed=seed) for seed in range(6)]


def test_a_stop_text_ends_the_answer_before_it(serve, data_uri):
    server = serve()
    whole = said(server, user(data_uri(1), "What is happening?"), max_tokens=16)
    stop = whole[2:5]
    for path in (CHAT, "/s/door/v1/chat/completions"):
        body = {"model": "pocket", "messages": [user(data_uri(1), "What is happening?")], "max_tokens": 16}
        choice = json.loads(post(server, body | {"stop": ["never said", stop]}, path).text)["choices"][0]
        if path == CHAT:
            assert choice["message"]["content"] == whole[: whole.index(stop)]
        assert stop not in choice["message"]["content"] and choice["finish_reason"] == "stop"
    # in a session, what was heard is what was said; it has cost what it cost
    session = server.sessions.named("door")
    (turn,), (shown,) = session.session.turns, session.track.turns
    assert turn.answer == shown.answer == choice["message"]["content"]
    for more in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
        text = post(server, body | more | {"stop": stop}, path).text
        usage = json.loads(text.split("data: ")[-2] if more else text)["usage"]
        assert usage["prompt_tokens"] > 20 and 0 < usage["completion_tokens"] <= 16


@pytest.mark.parametrize("pieces", [["a", "bc", "de"], ["abcde"], list("abcde")])
def test_stops_across_pieces(pieces):
    class Pieces(list):
        def close(self): ...

    turn = DialogueTurn(0, "What?", 0.0, [], is_cut=True)
    assert "".join(up_to_stop(Pieces(pieces), ["def"], turn)) == "abcde" and turn.is_cut
    assert "".join(up_to_stop(Pieces(pieces), ["cd", "xyz"], turn)) == "ab" and not turn.is_cut


def test_pictures_by_address(make_sessions, serve, png, data_uri):
    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self):
            data = png(1)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words): ...

    host = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{host.server_port}/a.png"
    try:
        asked = {"model": "pocket", "messages": [user(address, "What?")], "max_tokens": 4}
        refused = post(serve(), asked)
        assert refused.status == 403 and "--allow-urls" in refused.text
        inside = post(serve(allow_urls=True), asked)
        assert inside.status == 403 and "private network" in inside.text
        server = serve(allow_urls=True, allow_private_urls=True)
        assert json.loads(post(server, asked).text)["choices"][0]["message"]["content"] == said(
            server, user(data_uri(1), "What?"), max_tokens=4
        )
    finally:
        host.shutdown()


def test_a_video_in_a_message(serve, pocket, clip: Path):
    video = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
    server = serve()
    answer = post(server, {"model": "pocket", "messages": [user(video, "What?")], "max_tokens": 4})
    assert answer.status == 200 and json.loads(answer.text)["usage"]["prompt_tokens"] > 40
    assert (
        post(server, {"model": "pocket", "messages": [user(video, "What?")]}, "/s/a/v1/chat/completions").status == 200
    )
    session = server.sessions.named("a").session
    assert session.stats()["frames_seen"] == 4
    first = session.stats()["last_timestamp"]
    two = {"model": "pocket", "messages": [user(video, video, "What?")], "max_tokens": 4}
    assert post(server, two, "/s/a/v1/chat/completions").status == 200, "the second one stands behind the first"
    assert session.stats()["frames_seen"] == 12 and session.stats()["last_timestamp"] == pytest.approx(3 * first)
    assert not list(server.sessions.files.path.glob("*.video"))


def test_models(serve):
    server = serve()
    client = Client(server.address)
    for path in ("/v1/models", "/s/door/v1/models"):
        (model,) = client.call("GET", path)["data"]
        assert model == client.call("GET", f"{path}/pocket")
        assert model["id"] == "pocket" and model["object"] == "model" and isinstance(model["created"], int)
    with pytest.raises(ValueError, match="404"):
        client.call("GET", "/v1/models/gpt")
