"""Quix Streams doing the same; run by the interpreter of an environment of its own.

Called as ``python quix.py GUARANTEE SERVERS TOPIC OUTPUT RECORDS FOLDER``; prints seconds from the
first record to the end of the last checkpoint, and how many records it took. The records have
their keys already, so that nothing has to be shuffled.
"""

import logging
import sys
import time

from quixstreams import Application
from quixstreams.dataframe.windows.aggregations import Count, Sum


def main() -> None:
    """Filter, sliding window: topic to topic."""
    guarantee, servers, source, target, records, folder = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    app = Application(
        broker_address=servers,
        consumer_group=f"quix-{target}",
        auto_offset_reset="earliest",
        processing_guarantee=guarantee,
        commit_interval=1.0,
        state_dir=folder,
        loglevel=None,
    )
    began, left = 0.0, int(records)

    def seen(_: object) -> None:
        nonlocal began, left
        began = began or time.perf_counter()
        left -= 1
        if not left:
            app.stop()

    orders = app.topic(
        source, value_deserializer="json", timestamp_extractor=lambda value, *_: value["at"]
    )
    totals = app.topic(target, value_serializer="json")
    frame = app.dataframe(orders).update(seen).filter(lambda order: order["amount"] > 0)
    windows = frame.hopping_window(duration_ms=10_000, step_ms=5_000, grace_ms=5_000)
    frame = windows.agg(total=Sum("amount"), orders=Count()).final()
    frame.to_topic(totals)
    app.run()
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
