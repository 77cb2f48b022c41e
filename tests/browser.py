"""The page of a server in headless Chromium, for tests; needs selenium."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from openai_server import Running

WIDE, PHONE = (1280, 800), (390, 844)


@contextlib.contextmanager
def driver(binary: str, program: str) -> Iterator[Any]:
    """Start a browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options, Service(program))
    try:
        yield started
    finally:
        started.quit()


class Page:
    """The page in a tab of its own, and what a person does with it."""

    def __init__(self, started: Any, server: Running) -> None:
        self.driver = started
        self.server = server
        self.allowed: list[str] = []  # what the console may say

    @classmethod
    @contextlib.contextmanager
    def in_new_tab(cls, started: Any, server: Running) -> Iterator["Page"]:
        first = started.current_window_handle
        started.switch_to.new_window("tab")
        page = cls(started, server)
        page.emulate(WIDE)
        try:
            yield page
            messages = [entry["message"] for entry in started.get_log("browser")]
            assert [
                message
                for message in messages
                if not any(words in message for words in page.allowed)
            ] == []
        finally:
            with contextlib.suppress(Exception):  # a page on which nothing was opened
                started.execute_script("localStorage.clear(); sessionStorage.clear()")
            started.close()
            started.switch_to.window(first)

    def emulate(
        self, size: tuple[int, int], language: str = "en-US", scheme: str = "light"
    ) -> None:
        """Be a window of this size, for a person with these preferences."""
        send = self.driver.execute_cdp_cmd
        phone = size == PHONE
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": phone}
        send("Emulation.setDeviceMetricsOverride", metrics)
        send("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        agent = self.driver.execute_script("return navigator.userAgent")
        send("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": language})
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        send("Emulation.setEmulatedMedia", {"features": features})

    def open(self, fragment: str = "", is_ready: bool = True) -> "Page":
        self.driver.get(f"{self.server.address}/{fragment}")
        if is_ready:
            self.wait(lambda: self("#send").is_enabled())
        return self

    def __call__(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {script}", *arguments)

    def text(self, selector: str) -> str:
        """Give all the text that is in an element, exactly."""
        return self.run("document.querySelector(arguments[0]).textContent", selector)

    def wait(self, holds: Callable[[], Any], seconds: float = 120) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < deadline, "it did not come to hold"
            time.sleep(0.03)
        return found

    def set(self, **settings: Any) -> None:
        script = (
            "(e => {e.value = arguments[1]; e.dispatchEvent(new Event('input', {bubbles: true}))})"
        )
        for name, value in settings.items():
            self.run(f"{script}(document.getElementById(arguments[0]))", f"set-{name}", str(value))

    def ask(self, text: str, **settings: Any) -> None:
        """Write a prompt, press the button, and wait until the answer has ended."""
        self.set(**settings)
        self("#prompt").clear()
        self("#prompt").send_keys(text)
        self("#send").click()
        self.wait_for_the_end()

    def wait_for_the_end(self) -> None:
        self.wait(lambda: self.all(".turn footer p span") and self("#send").is_displayed())

    def mode(self, name: str) -> None:
        self(f"#modes label:has([value={name}])").click()

    def point_at(self, element: Any) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element(element).perform()

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()
