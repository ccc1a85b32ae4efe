"""What a program sets for its whole process, put back: tests that call a main() share theirs."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def put_back() -> Iterator[None]:
    """Log and garbage collection are afterwards as they were."""
    handlers, level, thresholds = logging.root.handlers[:], logging.root.level, gc.get_threshold()
    config = structlog.get_config()
    try:
        yield
    finally:
        structlog.configure(**config)
        gc.set_threshold(*thresholds)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
