"""The app's own address as this process knows it: the candidates, and the one that has proved itself.

Opens no connection and knows no token.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backjob.config import Config
from backjob.errors import AddressError
from backjob.model.address import CONNECT, Address, add_site, read_origin, write_origin
from backjob.model.job import JobRequest

from .discovery import discover, discover_unasked, find_site, routes_by_host

_MOST_SENT = 64


class OwnAddress:
    """``connect=``, or what was discovered. A job is sent there only as long as the address is proven.

    An address from the server's own socket counts as proven until a request to it fails.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._known: list[Address] = []
        self.proven: Address | None = None
        self._proven_at = float("-inf")
        self._has_failed = False
        self._sent: dict[str, Address] = {}

    def learn(self, environ: Mapping[str, Any]) -> None:
        """Remember the addresses of this process, for use outside of requests."""
        if not (self._config.address or self.proven or self._known):
            self._known = self._discover(environ)

    def learn_from_own(self, environ: Mapping[str, Any]) -> None:
        """Remember it from a self-request, whose Host has led here and was not chosen by a visitor."""
        if not (self._config.address or self.proven):
            site = find_site(environ)
            self._known = [add_site(address, site)[-1] for address in discover(environ)]

    def candidates(self, environ: Mapping[str, Any] | None) -> list[Address]:
        """Return the addresses that a launch from here would try. Raises AddressError if none is known."""
        if self._config.address:
            return [self._config.address]
        if self.proven:
            return [self.proven]
        candidates = self._discover(environ) if environ is not None else self._known
        if not candidates:
            raise AddressError
        return candidates

    def _discover(self, environ: Mapping[str, Any]) -> list[Address]:
        """Return the addresses of this request's server. Its Host is last, except on a server known to route by it."""
        site = self._config.site.authority if self._config.site else find_site(environ)
        order = -1 if routes_by_host(environ) else 1
        pairs = [add_site(address, site)[::order] for address in discover(environ)]
        sure = [address for pair in pairs if any(each.is_sure for each in pair) for address in pair]
        guesses = [pair for pair in pairs if not any(each.is_sure for each in pair)]
        return [*sure, *(pair[0] for pair in guesses), *(pair[1] for pair in guesses if len(pair) > 1)]

    def find_elsewhere(self, request: JobRequest, app: str) -> Address | None:
        """Return the address at which a job that another app has started is to run, or None if that is our own."""
        if request.app == app or not request.address:
            return None
        recorded = read_origin(request.address)
        return None if request.by_connect and self.is_known(recorded) else recorded

    def guess(self, request: JobRequest, app: str) -> list[Address]:
        """Return possible addresses for this job, the likeliest first, also in a process that had no request yet."""
        if elsewhere := self.find_elsewhere(request, app):
            return add_site(elsewhere, request.site)
        try:
            return self.candidates(None)
        except AddressError:
            found = discover_unasked()
        if request.app == app and request.address:
            recorded = read_origin(request.address)
            found = [recorded] * (recorded in found) + [each for each in found if each != recorded] or [recorded]
        if not found:
            raise AddressError
        return [each for address in found for each in add_site(address, request.site)]

    def note_origin(self, request: JobRequest, environ: Mapping[str, Any] | None) -> JobRequest:
        """Return the request with what another process needs to launch it: the address, and a Host to try there."""
        with contextlib.suppress(AddressError):
            addresses = self.candidates(environ)
            site = "" if self._config.address else max(addresses[0].site, addresses[-1].site)
            request = replace(request, address=write_origin(addresses[0]), site=site)
        return replace(request, by_connect=self._config.address is not None)

    def is_known(self, address: Address) -> bool:
        """Return whether this address is the app's own, with any Host."""
        own = (self._config.address, self.proven, *self._known)
        return any(each is not None and replace(each, site=address.site) == address for each in own)

    def is_proven(self, address: Address, fresh: float) -> bool:
        """Return whether a job may be sent there without a probe.

        ``fresh``: seconds for which a proof of ``connect=`` holds. Its server may have stopped since.
        """
        if address.found == CONNECT:
            return address == self.proven and time.monotonic() - self._proven_at < fresh
        return address == self.proven or (address.is_sure and not self._has_failed)

    def is_doubted(self, fresh: float) -> bool:
        """Return whether a request has failed since the last proof, or whether the proof of ``connect=`` is too old."""
        address = self._config.address
        return self._has_failed or (address is not None and not self.is_proven(address, fresh))

    def note_proof(self, address: Address) -> None:
        """Record that the app has just answered at this address, or received a launch sent there."""
        if not address.is_recorded:
            self.proven, self._proven_at, self._has_failed = address, time.monotonic(), False

    def doubt(self) -> None:
        """Record a request without an answer: the address keeps its precedence, but must prove itself."""
        self._proven_at = float("-inf")

    def forget(self) -> None:
        """Drop the proven address, because it has failed."""
        self.proven, self._has_failed = None, True

    def keep_sent(self, nonce: str, address: Address) -> None:
        """Remember the address to which a launch is sent."""
        while len(self._sent) >= _MOST_SENT:
            self._sent.pop(next(iter(self._sent), ""), None)
        self._sent[nonce] = address

    def note_arrival(self, nonce: str) -> bool:
        """Record that this launch has arrived, and return whether this process sent it. Then its address is proven."""
        address = self._sent.pop(nonce, None)
        if address is not None:
            self.note_proof(address)
        return address is not None

    def note_arrival_of(self, request: JobRequest) -> None:
        """Record the arrival of a launch from another process that has the same address.

        It ends the effect of an earlier failure, and proves an address of ``connect=``.
        """
        with contextlib.suppress(AddressError):
            address = self.candidates(None)[0]
            if request.address == write_origin(address) and request.by_connect == (address.found == CONNECT):
                self._has_failed = False
                if address.found == CONNECT:  # the Host of a launch to a discovered address is not known
                    self.note_proof(address)
