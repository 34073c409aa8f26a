"""A headless Chromium, asked over a pipe what a page did: its errors, requests and sizes."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
_FLAGS = (
    'headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run',
    'disable-background-networking', 'disable-component-update', 'disable-sync', 'hide-scrollbars',
    'remote-debugging-pipe',
)  # fmt: skip
_PATIENCE = 120  # seconds


class Browser:
    """One page of a browser.

    Args:
        read (int): File descriptor of what the browser says.
        write (int): File descriptor of what it is told.
    """

    def __init__(self, read: int, write: int):
        self._read, self._write = read, write
        self._rest, self._sent, self._session = b'', 0, None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **params) -> dict:
        """Call a method of the DevTools protocol; events that come meanwhile are noted."""
        self._sent += 1
        message = dict(id=self._sent, method=method, params=params)
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        number = self._sent
        while True:
            answer = self._next()
            if answer.get('id') == number:
                assert 'error' not in answer, answer
                return answer['result']
            self._note(answer)

    def _next(self) -> dict:
        until = time.monotonic() + _PATIENCE
        while b'\0' not in self._rest:
            left = until - time.monotonic()
            assert left > 0 and select.select([self._read], [], [], left)[0], 'it says nothing'
            part = os.read(self._read, 1 << 20)
            assert part, 'it has ended'
            self._rest += part
        message, _, self._rest = self._rest.partition(b'\0')
        return json.loads(message)

    def _note(self, event: dict) -> None:
        method, found = event.get('method'), event.get('params', {})
        if method == 'Runtime.exceptionThrown':
            self.errors.append(json.dumps(found['exceptionDetails'])[:500])
        elif method == 'Runtime.consoleAPICalled' and found['type'] in ('error', 'warning'):
            self.errors.append(json.dumps(found['args'])[:500])
        elif method == 'Log.entryAdded' and found['entry']['level'] in ('error', 'warning'):
            self.errors.append(found['entry']['text'])
        elif method == 'Network.requestWillBeSent':
            self.requests.append(found['request']['url'])
        elif method == 'Page.loadEventFired':
            self._loaded = True

    def open(self, page: Path, width: int, height: int = 900) -> None:
        """Load a file at a width in pixels and wait until it is drawn."""
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call('Emulation.setDeviceMetricsOverride', **size)
        self._loaded = False
        self.call('Page.navigate', url=page.absolute().as_uri())
        while not self._loaded:
            self._note(self._next())
        self.ask('new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))')

    def ask(self, script: str):
        """Give the value of an expression in the page."""
        found = self.call(
            'Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True
        )
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def picture(self, path: Path, **clip: int) -> None:
        """Save a picture of a part of the page: ``x``, ``y``, ``width``, ``height``."""
        found = self.call(
            'Page.captureScreenshot', captureBeyondViewport=True, clip=dict(clip, scale=1)
        )
        path.write_bytes(base64.b64decode(found['data']))


@contextlib.contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile folder, and end it."""
    # Its ends of the pipes have to be 3 and 4: ours are moved out of the way first.
    out_of_the_way = [
        fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20)
        for pipe in (os.pipe(), os.pipe())
        for end in pipe
    ]
    told, telling, hearing, saying = out_of_the_way
    command = [CHROMIUM, *(f'--{flag}' for flag in _FLAGS), f'--user-data-dir={profile}']
    script = f'exec "$0" "$@" 3<&{told} 4>&{saying}'
    process = subprocess.Popen(
        ['bash', '-c', script, *command],
        pass_fds=[told, saying],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(told)
    os.close(saying)
    try:
        yield Browser(hearing, telling)
    finally:
        process.terminate()
        process.wait(30)
        os.close(telling)
        os.close(hearing)
