"""What a person does with the page, in headless Chromium."""

import base64
import json
import re

import numpy as np
import pytest
from browser import PHONE, WIDE, Page
from openai_server import wait_until

from keras_gpt.serving.openai.keys import Key, Keys, _digest
from keras_gpt.serving.openai.schemas import Sampling

pytestmark = [pytest.mark.usefixtures("chromium"), pytest.mark.slow]  # a browser, for minutes

SETTINGS = {"seed": 7, "max_tokens": 12, "temperature": 0.8}
# As the page says it where nothing was changed.
USUAL = {"top_p": 0.95, "min_p": 0, "top_k": -1}
USER = {"role": "user", "content": "the cat"}


def chat(server, **fields):
    asked = {"model": "tiny", "messages": [USER], "logprobs": True, "top_logprobs": 5}
    with server.http() as http:
        answer = http.post("/v1/chat/completions", json={**asked, **USUAL, **SETTINGS, **fields})
    return answer.json()["choices"][0]


def complete(server, prompt, **fields):
    asked = {"model": "tiny", "prompt": prompt, **USUAL, **SETTINGS, **fields}
    with server.http() as http:
        return http.post("/v1/completions", json=asked).json()["choices"][0]


def test_a_conversation(page):
    page.open()
    assert page.run("document.title") == "tiny"
    assert page("#modes").is_displayed()
    assert page("#welcome-title").text == "Talk to tiny"
    page.ask("the cat", **SETTINGS)
    want = chat(page.server)
    assert page.text(".turn.user .said") == "the cat"
    assert page.text(".turn.assistant .answer") == want["message"]["content"]
    assert not page("#welcome").is_displayed()
    facts = page(".turn.assistant footer p").text
    assert re.fullmatch(r"12 tokens[\d.]+/scut off: no more tokens allowedseed 7", facts), facts
    # Tinted the more, the less probable.
    tokens = want["logprobs"]["content"]
    tints = [
        float(page.run("arguments[0].style.getPropertyValue('--surprise')", each))
        for each in page.all(".token")
    ]
    assert len(tints) <= len(tokens)
    assert max(tints) == pytest.approx(
        min(1, -min(each["logprob"] for each in tokens) / np.log(300)), abs=0.02
    )
    # What was said goes into the next prompt.
    page("#prompt").send_keys("sat")
    page("#send").click()
    page.wait(lambda: len(page.all(".turn.assistant footer p span")) == 8)
    said = [USER, want["message"], {"role": "user", "content": "sat"}]
    messages = [{"role": each["role"], "content": each["content"]} for each in said]
    again = chat(page.server, messages=messages)["message"]["content"]
    assert page.all(".turn.assistant .answer")[1].get_property("textContent") == again
    page("#clear").click()
    assert page.all(".turn") == []
    assert page("#welcome").is_displayed()


def test_a_text_goes_on(page):
    page.open()
    page.mode("text")
    page.ask("the c", **SETTINGS, stop="", top_k=9, repetition_penalty=1.3)
    fields = {"top_k": 9, "repetition_penalty": 1.3}
    want = complete(page.server, "the c", **fields)
    assert page.text(".turn .said") == "the c" + want["text"]
    assert page.text(".before") == "the c"
    # A stop text cuts a token, and the page shows no more of it than the API gives.
    middle = want["text"][3:5].replace("\n", "\\n")
    page.ask("the c", stop=middle)
    cut = complete(page.server, "the c", **fields, stop=[want["text"][3:5]])
    assert page.text(".answer") == cut["text"]
    assert len(cut["text"]) < len(want["text"])
    assert "ended by itself" in page(".turn footer p").text
    page.set(stop="")
    page("[data-action=again]").click()
    page.wait_for_the_end()
    assert page.text(".answer") == want["text"]
    page("[data-action=go_on]").click()
    page.wait(lambda: page.text(".before") == "the c" + want["text"])
    page.wait_for_the_end()
    assert page.text(".answer") == complete(page.server, "the c" + want["text"], **fields)["text"]


def test_what_a_token_could_have_been(page):
    page.open()
    page.ask("the cat", **SETTINGS)
    first = chat(page.server)["logprobs"]["content"][0]
    # Tokens that are no whole characters share a name, so their bytes tell them apart.
    want = {tuple(each["bytes"]): each["logprob"] for each in (first, *first["top_logprobs"])}

    def rows():
        lines = page.all("#tip > div:first-child li")
        return [
            float(each.find_element("tag name", "i").get_attribute("style").split(":")[1][:-1])
            for each in lines
        ]

    def assert_tip():
        shares = sorted((np.exp(each) for each in want.values()), reverse=True)
        np.testing.assert_allclose(rows(), shares, atol=1e-4)
        assert len(page.all("#tip > div:first-child li.chosen")) == 1
        share = page("#tip h3 span").text
        assert float(share.strip("%<")) == pytest.approx(100 * np.exp(first["logprob"]), abs=0.6)

    assert not page("#tip").is_displayed()
    page.point_at(page(".token"))
    page.wait(page("#tip").is_displayed)
    assert_tip()
    page.point_at(page("#tip"))  # it stays while the pointer is in it
    assert page("#tip").is_displayed()
    page.press("\ue00c")  # Escape
    assert not page("#tip").is_displayed()

    # By keyboard: one stop for the whole answer, then arrows.
    page("#log").click()
    page.press("\ue004")  # Tab
    page.wait(page("#tip").is_displayed)
    assert_tip()
    assert page.text("#spoken").startswith("“")
    before = page.text("#spoken")
    page.press("\ue014")  # right
    assert page("#tip").is_displayed()
    assert page.text("#spoken") != before
    page.press("\ue013", "\ue011")  # up, Home
    assert_tip()
    page.press("\ue004")
    assert not page("#tip").is_displayed()

    # By a finger.
    page.emulate(PHONE)
    touch = page.run(
        "(r => [r.x + r.width / 2, r.y + r.height / 2])(arguments[0].getBoundingClientRect())",
        page(".token"),
    )
    for kind, points in (("touchStart", [{"x": touch[0], "y": touch[1]}]), ("touchEnd", [])):
        page.driver.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
        )
    page.wait(page("#tip").is_displayed)
    assert_tip()

    page.emulate(WIDE)
    page("#coloured").click()
    assert (
        page.run("getComputedStyle(arguments[0]).backgroundColor", page(".token"))
        == "rgba(0, 0, 0, 0)"
    )


@pytest.mark.usefixtures("slowly")
def test_stop_stops_the_server_too(page):
    page.open()
    page.set(max_tokens=50)
    page("#prompt").send_keys("the cat\ue007")  # Enter sends
    page.wait(lambda: page.all(".token"))
    assert page("#log").get_attribute("aria-busy") == "true"
    assert page.server.service.engine.num_running == 1
    page("#stop").click()
    wait_until(lambda: page.server.service.engine.num_running == 0)
    page.wait_for_the_end()
    assert "stopped by you" in page(".turn.assistant footer p").text
    assert page("#log").get_attribute("aria-busy") == "false"
    assert 0 < len(page.all(".token")) < 50


def test_a_link_holds_what_the_page_shows(page):
    page.open()
    page.run("sessionStorage.setItem('keras_gpt.key', 'sk-secret')")
    page.ask("你好 the cat", **SETTINGS, stop="zz\n\\n", system="be brief")
    said = page.text(".turn.assistant .answer")
    page("#prompt").send_keys("a draft")
    page("#share").click()
    fragment = page.wait(lambda: page.run("location.hash"))
    assert (
        page("#share-link").get_property("value").endswith(fragment)
        or "copied" in page("#status").text
    )
    data = fragment.removeprefix("#s=")
    state = json.loads(base64.urlsafe_b64decode(data + "=" * (-len(data) % 4)))
    assert "sk-secret" not in json.dumps(state)
    assert state["settings"] == {**SETTINGS, "stop": "zz\n\\n", "system": "be brief"}
    page.driver.get("about:blank")
    page.open(fragment)
    assert page.text(".turn.user .said") == "你好 the cat"
    assert page.text(".turn.assistant .answer") == said
    assert page("#prompt").get_property("value") == "a draft"
    assert page("#set-temperature").get_property("value") == "0.8"
    assert page("#set-stop").get_property("value") == "zz\n\\n"
    assert page("#set-system").get_property("value") == "be brief"


@pytest.mark.parametrize("data", ["!", "bm90IGpzb24", "e30", "eyJtb2RlIjoieCJ9", "_w"])
def test_a_damaged_link_is_said_to_be_one(page, data):
    page.open(f"#s={data}")
    assert page("#notice").text == "The link is damaged, so nothing was taken from it."


def test_a_link_sets_nothing_that_is_out_of_range(page):
    state = {
        "mode": "chat",
        "settings": {"temperature": 99, "top_p": "1", "seed": 3, "constructor": 1, "stop": 4},
        "draft": "",
        "turns": [],
    }
    page.open("#s=" + base64.urlsafe_b64encode(json.dumps(state).encode()).decode())
    values = {
        name: page(f"#set-{name}").get_property("value")
        for name in ("temperature", "top_p", "seed", "stop")
    }
    assert values == {"temperature": "0.9", "top_p": "0.95", "seed": "3", "stop": ""}


HTML = "<img src=x onerror=hit=1>"


def test_text_never_becomes_html(page, gpt, monkeypatch):
    ids = [gpt.tokenizer.encode(each)[0] for each in "<b>/"]
    settings = Sampling.settings
    monkeypatch.setattr(
        Sampling, "settings", lambda body: {**settings(body), "logit_bias": dict.fromkeys(ids, 90)}
    )
    page.open()
    page.ask(HTML, **{**SETTINGS, "max_tokens": 15})
    assert page.text(".turn.user .said") == HTML
    written = page.text(".turn.assistant .answer")
    assert set(written) <= set("<b>/")
    assert len(written) == 15
    page.point_at(page(".token"))
    page.wait(page("#tip").is_displayed)
    page("[data-action=attention]").click()
    page.wait(page("#attention-body").is_displayed)
    assert HTML in page.text("#attention-text")
    page("#attention-close").click()
    page("#share").click()
    page.open(page.wait(lambda: page.run("location.hash")))
    page.driver.refresh()
    page.wait(lambda: page.all(".turn.assistant"))
    assert page.text(".turn.user .said") == HTML
    assert page.all("article img, article b, #attention-text img, [onerror]") == []
    assert page.run("window.hit === undefined")


def test_attention(page, gpt):
    page.open()
    page.ask("the cat", **SETTINGS)
    said = page.text(".turn.assistant .answer")
    page("[data-action=attention]").click()
    page.wait(page("#attention-body").is_displayed)
    asked = {"model": "tiny", "messages": [USER], "answer": said}
    with page.server.http() as http:
        answers = [
            http.post("/v1/attention", json={**asked, "layer": layer}).json() for layer in (0, 1)
        ]
    count = len(answers[0]["tokens"])
    assert page.text("#attention-text").replace("·", "").startswith("u:the cat\na:")
    assert len(page.all("#attention-text span")) == count
    assert len(page.all("#heads canvas")) == 4 + 1
    assert page("#layer-shown").text == "1 of 2"

    def weights(layer, head):
        data = np.frombuffer(base64.b64decode(answers[layer]["weights"]), "uint8")
        found = data.reshape(-1, count, count) / 255
        return found.mean(0) if head is None else found[head]

    def shown():
        # In one call: the page may draw the list anew between two.
        styles = page.run(
            "[...document.querySelectorAll('#sees i')].map(i => i.getAttribute('style'))"
        )
        return [float(style.split(":")[1][:-1]) for style in styles]

    def assert_row(row):
        np.testing.assert_allclose(shown(), np.sort(row)[::-1][: len(shown())], atol=1e-3)

    page("#no-first").click()
    assert_row(weights(0, None)[-1])
    page("#heads label:nth-of-type(4)").click()
    assert_row(weights(0, 2)[-1])
    page.all("#attention-text span")[3].click()
    assert_row(weights(0, 2)[3])
    page("#layer").send_keys("\ue014")
    page.wait(lambda: page("#layer-shown").text == "2 of 2" and page("#attention-note").text == "")
    page.wait(lambda: np.allclose(shown()[:1], weights(1, 2)[3].max(), atol=1e-3))
    assert_row(weights(1, 2)[3])
    page("#attention-text").send_keys("\ue014")
    assert_row(weights(1, 2)[4])
    # The map's pixels are the weights, above the diagonal there is nothing.
    alpha = page.run(
        "(c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
        ".filter((_, i) => i % 4 === 3))(arguments[0])",
        page("#map"),
    )
    alpha = np.reshape(alpha, (count, count))
    rest = np.arange(count) != 4
    np.testing.assert_allclose(alpha[rest] / 255, np.sqrt(weights(1, 2))[rest], atol=0.01)
    page("#no-first").click()
    assert_row(np.where(np.arange(count) == 0, 0, weights(1, 2)[4]))
    page.press("\ue00c")
    assert not page("#attention").is_displayed()


def test_keys(chromium, start):
    keys = Keys([Key("ada", _digest("sk-ada"), None, None)])
    with start(keys=keys) as server, Page.in_new_tab(chromium, server) as page:
        page.allowed = ["401"]
        page.open(is_ready=False)
        page.wait(page("#key-dialog").is_displayed)
        assert page("#key-problem").text == ""
        page("#key").send_keys("sk-wrong\ue007")
        page.wait(lambda: page("#key-dialog").is_displayed() and page("#key-problem").text)
        assert page("#key-problem").text == "This key is not known."
        page("#key").send_keys("sk-ada\ue007")
        page.wait(lambda: page("#send").is_enabled())
        page.ask("the cat", **SETTINGS)
        assert page.text(".turn.assistant .answer")
        assert page.run("JSON.stringify(localStorage) + location.href").count("sk-") == 0


def test_chinese_for_who_reads_it(page):
    page.emulate(WIDE, language="zh-CN,zh;q=0.9,en;q=0.8")
    page.open()
    assert page.run("document.documentElement.lang") == "zh-Hans"
    assert page("#send").text == "发送"
    assert page("#prompt").get_attribute("placeholder") == "输入消息"
    page.ask("the cat", **SETTINGS)
    assert page(".turn.assistant footer p").text.startswith("12 个词元")
    page("#language").click()
    assert page("#send").text == "Send"
    assert page(".turn.assistant footer p").text.startswith("12 tokens")
    page.open()  # what was chosen stays
    assert page("#send").text == "Send"
    assert page.run("document.documentElement.lang") == "en"


def test_both_languages_say_everything(page):
    page.open()
    words = page.driver.execute_async_script(
        "import('/page/words.js').then(m => arguments[0](m.languages))"
    )
    assert list(words["en"]) == list(words["zh"])
    for name, english in words["en"].items():
        chinese = words["zh"][name]
        holes = [set(re.findall(r"\{\w+\}", str(each))) for each in (english, chinese)]
        assert holes[0] == holes[1], name
        alike = ("other_language", "spoken_token", "top_p", "top_k", "min_p")
        if isinstance(chinese, str) and name not in alike:
            assert re.search(r"[\u4e00-\u9fff]", chinese), name
    used = page.run("[...document.querySelectorAll('[data-say]')].map(e => e.dataset.say)")
    assert set(used) <= set(words["en"])


@pytest.mark.parametrize("size", [PHONE, (320, 640), (820, 1100)])
def test_a_narrow_screen(page, size):
    page.emulate(size)
    page.open()

    def assert_fits():
        assert page.run("document.documentElement.scrollWidth") <= size[0]

    assert_fits()
    assert not page("#settings").is_displayed()
    page("#open-settings").click()
    assert page("#settings").is_displayed()
    page.set(**{**SETTINGS, "max_tokens": 4})
    page("#close-settings").click()
    page("#prompt").send_keys("the cat " + "x" * 20)
    page("#send").click()
    page.wait_for_the_end()
    assert_fits()
    page("[data-action=attention]").click()
    page.wait(page("#attention-body").is_displayed)
    assert page.run("document.getElementById('attention').scrollWidth") <= size[0]


def test_what_cannot_be_answered_is_explained(page):
    page.allowed = ["400"]
    page.open()
    page("#prompt").send_keys("z" * 80)
    page.set(**SETTINGS)
    page("#send").click()
    page.wait_for_the_end()
    assert "prompt and answer may have 64 tokens together" in page(".problem").text
    page("#clear").click()
    page.set(temperature=9)  # the field says what is wrong, and nothing is sent
    page("#prompt").clear()
    page("#prompt").send_keys("a")
    page("#send").click()
    assert page.all(".turn") == []
    # Less room than "most tokens": an answer as long as fits.
    page.set(temperature=0.8, max_tokens=60)
    page("#prompt").clear()
    page.ask("the cat")
    assert page.all(".turn.assistant .token")
    assert page.text(".problem") == ""


def test_names_and_order_for_screen_readers(page):
    page.open()
    page.ask("the cat", **SETTINGS)
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "textbox", "spinbutton", "checkbox", "radio", "slider", "dialog", "image")
    named = 0
    for node in tree:
        if not node["ignored"] and node["role"]["value"] in roles:
            assert node.get("name", {}).get("value"), node
            named += 1
    assert named > 20
    headings = [
        n["name"]["value"] for n in tree if not n["ignored"] and n["role"]["value"] == "heading"
    ]
    assert headings[0] == "tiny"


def test_limits_of_the_attention_view(chromium, start, monkeypatch):
    monkeypatch.setattr("keras_gpt.serving.openai.attention.MOST_TOKENS", 10)
    monkeypatch.setattr("keras_gpt.serving.openai.card.MOST_TOKENS", 10)
    with start() as server, Page.in_new_tab(chromium, server) as page:
        page.allowed = ["400"]
        page.open()
        page.ask("the cat", **SETTINGS)
        page("[data-action=attention]").click()
        page.wait(lambda: "for at most 10 tokens" in page("#attention-note").text)
        assert not page("#attention-body").is_displayed()
