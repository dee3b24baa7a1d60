"""Lines of a file that is followed, of which some are late, ahead of time, bad or refused."""

import streamline as sl
from streamline.connectors.files import FileSink, FileSource


class Order(sl.Record):
    """One line."""

    user: str
    amount: int
    at: int


def job(input: str, output: str) -> sl.Job:
    def known(order: Order) -> bool:
        if order.amount < 0:
            raise ValueError(f"an amount of {order.amount}")
        return True

    job = sl.Job("astray")
    source = FileSource(input, format=sl.Json(Order, on_error="dead_letter"), follow=True)
    orders = job.source("orders", source)
    orders.dead_letters.sink("broken", FileSink(f"{output}/broken", format=sl.Json()))
    (
        orders.with_timestamps("at", name="timed")
        .filter(known, on_error="skip", name="known")
        .key_by("user")
        .window(sl.Tumbling("1s"))
        .aggregate(total=sl.Sum("amount"), name="window")
        .sink("totals", FileSink(f"{output}/totals", format=sl.Json()))
    )
    return job
